"""How good an answer is: exact match and F1 as SQuAD defines them, ROUGE-L, gold in passages.

Pure functions over text. Source of the normalisation: Rajpurkar et al. 2016
(arXiv 1606.05250), the official evaluation script.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

RECALL_AT = (1, 5, 10)
"""The k of the `val/recall_at_k` that every validation reports; of the largest, also MRR."""

_WORDS = re.compile(r"[^\W_]+")
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


def rouge_l(prediction: str, answers: Iterable[str]) -> float:
    """Return ROUGE-L against the best fitting answer, 0.0 to 1.0.

    The F-measure of the longest common subsequence of words, precision and recall weighing the
    same (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1, with
    beta 1). Words are runs of letters and digits in lower case; none are left out or stemmed.
    """
    said = _WORDS.findall(prediction.lower())
    return max(_lcs_f1(said, _WORDS.findall(answer.lower())) for answer in answers)


def _lcs_f1(said: Sequence[str], meant: Sequence[str]) -> float:
    if not said or not meant:
        return float(said == meant)
    return 2 * _common_length(said, meant) / (len(said) + len(meant))


def _common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, which need not be in one piece."""
    row = [0] * (len(right) + 1)  # of the words of `left` so far and each start of `right`
    for word in left:
        above_left = 0
        for place, other in enumerate(right, start=1):
            above = row[place]
            row[place] = above_left + 1 if word == other else max(above, row[place - 1])
            above_left = above
    return row[-1]


def contains_answer(text: str, answers: Iterable[str]) -> bool:
    """Return whether one of the answers stands in the text, word by word."""
    words = f" {normalise_answer(text)} "
    normalised = (normalise_answer(answer) for answer in answers)
    return any(answer and f" {answer} " in words for answer in normalised)
