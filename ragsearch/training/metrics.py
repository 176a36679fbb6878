"""How good an answer is: exact match and F1 as SQuAD defines them, and recall of passages.

Pure functions over text. Source of the normalisation: Rajpurkar et al. 2016
(arXiv 1606.05250), the official evaluation script.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

RECALL_AT = (1, 5, 10)
"""The k of the `val/recall_at_k` that every validation reports."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Return the text in lower case, without punctuation, articles and extra white space."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """Return 1.0 if the prediction equals one of the answers once normalised, else 0.0."""
    said = normalise_answer(prediction)
    return float(any(said == normalise_answer(answer) for answer in answers))


def f1(prediction: str, answers: Iterable[str]) -> float:
    """Return the overlap of words with the best fitting answer, 0.0 to 1.0."""
    said = normalise_answer(prediction).split()
    return max(_word_f1(said, normalise_answer(answer).split()) for answer in answers)


def _word_f1(said: Sequence[str], meant: Sequence[str]) -> float:
    if not said or not meant:
        return float(said == meant)
    common = sum((Counter(said) & Counter(meant)).values())
    return 2 * common / (len(said) + len(meant))


def contains_answer(text: str, answers: Iterable[str]) -> bool:
    """Return whether one of the answers stands in the text, word by word."""
    words = f" {normalise_answer(text)} "
    normalised = (normalise_answer(answer) for answer in answers)
    return any(answer and f" {answer} " in words for answer in normalised)
