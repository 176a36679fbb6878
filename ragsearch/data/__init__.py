"""Questions and corpora from files, checked row by row; importing it loads nothing heavy.

The modules, in the order the data travels:

- `rows`: records of a jsonl, tsv, csv or parquet file, each with its place
- `lines`: lines of a file, and of two files whose lines belong together
- `ids`: which ids stand twice, for millions of them
- `questions`: questions with answers
- `gold`: questions with what counts as right beside them, as `eval_rag.py` reads it
- `passages`: the texts of a corpus
- `chunks`: how a long text becomes passages
- `check`: all files of a search, read before it starts
"""

from ragsearch.data.check import Inputs, check_inputs
from ragsearch.data.chunks import chunk_words
from ragsearch.data.passages import CorpusRow, iter_corpus
from ragsearch.data.questions import Question, read_questions

__all__ = [
    "CorpusRow",
    "Inputs",
    "Question",
    "check_inputs",
    "chunk_words",
    "iter_corpus",
    "read_questions",
]
