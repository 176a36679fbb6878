"""Everything a search reads from data files, checked before it starts.

In: a `Spec`. Out: `Inputs`, the counts a plan needs, or every mistake of all files at once.
Reads each file once; holds the questions, and of a corpus only hashed ids.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ragsearch.data.chunks import n_chunks
from ragsearch.data.passages import PlacedText, iter_placed_corpus
from ragsearch.data.questions import PlacedQuestion, read_placed_questions
from ragsearch.data.rows import MistakeList
from ragsearch.errors import BadInputError, Mistake
from ragsearch.spec import IndexSection, Spec
from ragsearch.spec.document import KeyPath
from ragsearch.spec.folders import n_passages_in

MAX_PASSAGE_WORDS = 400
"""Texts longer than this must be cut: encoders read at most 512 tokens."""

MAX_EXAMPLES = 3  # questions a warning quotes


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the data files of a search hold."""

    n_train: int
    """Training questions that are used."""
    n_val: int
    """Validation questions that are used."""
    n_test: int | None
    """Test questions; None where the search has none."""
    n_passages: Mapping[str, int]
    """Passages of each index, after cutting."""
    warnings: tuple[str, ...]
    """What is allowed but probably not meant, one sentence each."""


def check_inputs(spec: Spec) -> Inputs:
    """Read every data file and corpus of a search.

    Costs one pass over each file: a minute for each few million passages.

    Args:
        spec: A spec from `load_spec`.

    Returns:
        Counts and warnings.

    Raises:
        BadInputError: With every mistake of every file.
    """
    mistakes: list[Mistake] = []
    questions = {name: _questions(spec, name, mistakes) for name in _files(spec)}
    by_corpus: dict[str, dict[str, IndexSection]] = {}
    n_passages: dict[str, int] = {}
    for name, index in spec.file.indexes.items():
        if index.corpus is not None:
            by_corpus.setdefault(index.corpus, {})[name] = index
        elif index.folder is not None:
            n_passages[name] = n_passages_in(index.folder)
    for corpus, indexes in by_corpus.items():
        survey = _Survey(Path(corpus), indexes, questions)
        n_passages |= survey.n_passages
        mistakes += survey.mistakes
    mistakes += _too_many_docs(spec, n_passages)
    if mistakes:
        raise BadInputError(mistakes)
    n_test = len(questions["test"]) if "test" in questions else None
    warnings = (
        *_short_files(spec, questions),
        *_shared_questions(spec, questions),
        *_unchecked_passages(spec, questions),
    )
    return Inputs(len(questions["train"]), len(questions["val"]), n_test, n_passages, warnings)


def _files(spec: Spec) -> dict[str, tuple[str, int | None]]:
    data = spec.file.data
    files = {"train": (data.train, data.n_train), "val": (data.val, data.n_val)}
    return files if data.test is None else files | {"test": (data.test, data.n_test)}


def _questions(spec: Spec, name: str, mistakes: list[Mistake]) -> list[PlacedQuestion]:
    path, limit = _files(spec)[name]
    try:
        return read_placed_questions(Path(path), limit)
    except BadInputError as error:
        mistakes += error.mistakes
        return []


class _Survey:
    """One pass over a corpus for all its indexes."""

    def __init__(
        self,
        corpus: Path,
        indexes: Mapping[str, IndexSection],
        questions: Mapping[str, list[PlacedQuestion]],
    ) -> None:
        self.n_passages = dict.fromkeys(indexes, 0)
        self._corpus = corpus
        self._indexes = indexes
        self._uncut = [name for name, index in indexes.items() if index.chunk is None]
        self._long = MistakeList(corpus)
        self._missing = {
            passage_id
            for placed in _all(questions)
            for passage_id in placed.question.passage_ids
        }
        self.mistakes = tuple(self._run(questions))

    def _run(self, questions: Mapping[str, list[PlacedQuestion]]) -> Iterator[Mistake]:
        try:
            for placed in iter_placed_corpus(self._corpus):
                self._count(placed)
        except BadInputError as error:
            yield from error.mistakes
            yield from self._long.to_tuple()
            self.n_passages.clear()  # unknown; and what is missing may stand in a bad row
            return
        yield from self._long.to_tuple()
        for placed_questions in questions.values() if self._missing else ():
            yield from self._lost_passages(placed_questions)

    def _count(self, placed: PlacedText) -> None:
        self._missing.discard(placed.row.id)
        n_words = len(placed.row.text.split())
        for name, index in self._indexes.items():
            chunk = index.chunk
            self.n_passages[name] += (
                n_chunks(n_words, chunk.words, chunk.overlap) if chunk else 1
            )
        if self._uncut and n_words > MAX_PASSAGE_WORDS:
            keys = " and ".join(f"indexes.{name}.chunk" for name in self._uncut)
            what = f"has {n_words} words, over the limit of {MAX_PASSAGE_WORDS}; set {keys}"
            self._long.add(Mistake(placed.place, "text", what))

    def _lost_passages(self, questions: list[PlacedQuestion]) -> Iterator[Mistake]:
        if not questions:
            return
        lost = MistakeList(Path(questions[0].place.rpartition(":")[0]))
        for place, question in questions:
            for passage_id in question.passage_ids:
                if passage_id in self._missing:
                    what = f"'{passage_id}' is no id in {self._corpus}; correct or drop it"
                    lost.add(Mistake(place, "passage_ids", what))
        yield from lost.to_tuple()


def _all(questions: Mapping[str, list[PlacedQuestion]]) -> Iterator[PlacedQuestion]:
    for placed in questions.values():
        yield from placed


def _too_many_docs(spec: Spec, n_passages: Mapping[str, int]) -> Iterator[Mistake]:
    """Find indexes with fewer passages than a trial asks for: the baseline, then any."""
    baseline, *others = spec.combinations("retrieval.index", "retrieval.n_docs")
    most: dict[str, int] = {}
    for index, n_docs in others:
        most[str(index)] = max(int(str(n_docs)), most.get(str(index), 0))
    yield from _unfilled(
        spec,
        ("trial", "retrieval", "n_docs"),
        {str(baseline[0]): int(str(baseline[1]))},
        n_passages,
    )
    paths = ("retrieval.n_docs", "retrieval.index")
    asking = [e.name for path in paths for e in spec.space.entries if path in e.paths]
    yield from _unfilled(spec, ("space", *asking[:1]), most, n_passages)


def _unfilled(
    spec: Spec, path: KeyPath, asked: Mapping[str, int], n_passages: Mapping[str, int]
) -> Iterator[Mistake]:
    for name, n_docs in sorted(asked.items()):
        n = n_passages.get(name, n_docs)
        if n_docs > n:
            what = f"asks for {n_docs} passages, but index '{name}' holds {n}; ask for fewer"
            yield spec.mistake(path, what)


def _short_files(spec: Spec, questions: Mapping[str, list[PlacedQuestion]]) -> Iterator[str]:
    for name, (path, limit) in _files(spec).items():
        if limit is not None and len(questions[name]) < limit:
            yield f"data.n_{name} is {limit}, but {path} holds {len(questions[name])} questions"


def _shared_questions(
    spec: Spec, questions: Mapping[str, list[PlacedQuestion]]
) -> Iterator[str]:
    trained_on = {_normal(placed) for placed in questions["train"]}
    for name in ("val", "test"):
        shared = [placed for placed in questions.get(name, ()) if _normal(placed) in trained_on]
        if shared:
            examples = ", ".join(repr(p.question.question) for p in shared[:MAX_EXAMPLES])
            path = _files(spec)[name][0]
            yield f"{len(shared)} questions of {path} are trained on, such as {examples}"


def _unchecked_passages(
    spec: Spec, questions: Mapping[str, list[PlacedQuestion]]
) -> Iterator[str]:
    """Tell that gold ids are believed where there is no corpus to look them up in.

    Yields:
        One warning at most.
    """
    folders = [name for name, index in spec.file.indexes.items() if index.corpus is None]
    if folders and any(placed.question.passage_ids for placed in _all(questions)):
        names = ", ".join(folders)
        yield f"whether index {names} has the passage_ids of the questions is not checked"


def _normal(placed: PlacedQuestion) -> str:
    return " ".join(placed.question.question.casefold().split())
