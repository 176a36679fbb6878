"""Training material for the quickstart models: training countries, renamed and renumbered.

In: `passages.jsonl` and `train.jsonl`; rows of val and test countries are never looked at.
Out: endless `Example`s. A country is re-told under an invented name, with other digits, values
exchanged between countries and sentences regrouped, so that reading and matching are learned
rather than the facts.
"""

import json
import random
import re
import string
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # one line of a JSON Lines file
TITLE_SEPARATOR, DOC_SEPARATOR = " / ", " // "  # RagConfig's title_sep and doc_sep

DIGITS = r"\d(?!,?0{0,3} people)"  # all but those of "per 1,000 people"
INVENTED_NAME_SHARE = 0.7
EXCHANGED_VALUE_SHARE = 0.35
NEW_DIGITS_SHARE = 0.7
INVENTED_WORD_SHARE = 0.15
KEYWORD_QUESTIONS = (
    "{l} {c}", "{c} {l}", "{l} of {c}", "{l} in {c}", "{c}: {l}", "{c}, {l}?",
    "what is the {l} of {c}?",
)  # fmt: skip
ONSETS = [
    "",
    *"bcdfghjklmnprstvwyz",
    "br",
    "ch",
    "dr",
    "gr",
    "kh",
    "ph",
    "sh",
    "st",
    "th",
    "tr",
]
NUCLEI = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "au", "ea", "ia", "oo", "ue"]
CODAS = ["", "", "", "", "l", "m", "n", "n", "r", "s", "t", "ng", "nd", "rk", "st", "x"]
ENDINGS = ["", "", "", "", "", "ia", "ia", "land", "stan", "a", " Islands", " Republic"]
FRONTS = ["", "", "", "", "", "", "Saint ", "North ", "South ", "New ", "Republic of "]


@dataclass(frozen=True)
class Passage:
    """A passage as facts, so that it can be told differently."""

    country: str
    topic: str
    facts: tuple[tuple[str, str], ...]  # (label, value)

    @property
    def title(self) -> str:
        """The title as the corpus writes it."""
        return f"{self.country} - {self.topic}"

    @property
    def text(self) -> str:
        """The text as the corpus writes it."""
        return " ".join(f"{label}: {value}." for label, value in self.facts)


@dataclass(frozen=True)
class Example:
    """A question, its answer and passages that do and do not hold it."""

    question: str
    keywords: str  # the same question as a search-box query: label and country only
    answer: str
    gold: Passage
    same_country: Passage
    same_topic: Passage  # of another country; usually states the same relation


@dataclass(frozen=True)
class Material:
    """What the training countries offer: their passages, values and ways of asking."""

    countries: list[list[Passage]]
    values: dict[str, list[str]]  # by label
    templates: dict[str, list[str]]  # by label; "{c}" is the country with its article


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSON Lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def country_code(identifier: str) -> str:
    """Return the country a passage or question id begins with."""
    return identifier.split("-", maxsplit=1)[0]


def read_material(data: Path) -> Material:
    """Return what the training countries offer; the rest of the corpus is skipped."""
    rows = read_rows(data / "train.jsonl")
    codes = {country_code(row["id"]) for row in rows}
    by_country: dict[str, list[Passage]] = defaultdict(list)
    values: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(data / "passages.jsonl"):
        if country_code(row["id"]) in codes:
            passage = parse_passage(row)
            by_country[country_code(row["id"])].append(passage)
            for label, value in passage.facts:
                values[label].append(value)
    names = {code: passages[0].country for code, passages in by_country.items()}
    return Material(list(by_country.values()), dict(values), _templates(rows, names, values))


def parse_passage(row: Row) -> Passage:
    """Return a passage as facts."""
    country, topic = row["title"].rsplit(" - ", maxsplit=1)
    sentences = re.split(r"(?<=\.) (?=[A-Z][\w ]{2,24}: )", row["text"])
    pairs = (sentence.removesuffix(".").split(": ", maxsplit=1) for sentence in sentences)
    return Passage(country, topic, tuple((label, value) for label, value in pairs))


def context(passage: Passage, question: str) -> str:
    """Return the generator's input, as Transformers' RagRetriever would write it."""
    return passage.title + TITLE_SEPARATOR + passage.text + DOC_SEPARATOR + question


def examples(material: Material, seed: int, n_per_country: int = 12) -> Iterator[Example]:
    """Yield examples without end; the passages of one country are told anew each time."""
    dice = random.Random(seed)  # noqa: S311  # reproducible, nothing secret
    seen: dict[str, Passage] = {}
    while True:
        told = _retell(material, dice.choice(material.countries), dice)
        facts = [(passage, fact) for passage in told for fact in passage.facts]
        for gold, (label, value) in dice.sample(facts, min(n_per_country, len(facts))):
            others = [passage for passage in told if passage is not gold] or [gold]
            named = _with_article(gold.country, dice)
            yield Example(
                question=dice.choice(material.templates[label]).format(c=named),
                keywords=dice.choice(KEYWORD_QUESTIONS).format(c=gold.country, l=label.lower()),
                answer=value,
                gold=gold,
                same_country=dice.choice(others),
                same_topic=seen.get(label, others[0]),
            )
            seen[label] = gold


def invent_name(dice: random.Random) -> str:
    """Return a name that could be a country's."""
    if dice.random() < 0.1:  # noqa: PLR2004  # as often as two countries share a name
        return f"{invent_word(dice)} and {invent_word(dice)}"
    return dice.choice(FRONTS) + invent_word(dice) + dice.choice(ENDINGS)


def invent_word(dice: random.Random) -> str:
    """Return one to three random syllables, capitalised."""
    syllables = (
        dice.choice(ONSETS) + dice.choice(NUCLEI) + dice.choice(CODAS)
        for _ in range(dice.choice((1, 2, 2, 2, 3, 3)))
    )  # fmt: skip
    return "".join(syllables).capitalize()


def _retell(material: Material, passages: list[Passage], dice: random.Random) -> list[Passage]:
    name = passages[0].country
    new_name = invent_name(dice) if dice.random() < INVENTED_NAME_SHARE else name
    by_topic: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for passage in passages:
        for label, value in passage.facts:
            told = _new_value(material, label, value.replace(name, new_name), dice)
            by_topic[passage.topic].append((label, told))
    return [
        Passage(new_name, topic, tuple(chunk))
        for topic, facts in by_topic.items()
        for chunk in _regroup(facts, dice)
    ]


def _regroup(
    facts: list[tuple[str, str]], dice: random.Random
) -> Iterator[list[tuple[str, str]]]:
    dice.shuffle(facts)
    n_chunks = max(1, round(len(facts) / dice.uniform(3.6, 5.4)))
    for number in range(n_chunks):
        yield facts[number::n_chunks]


def _new_value(material: Material, label: str, value: str, dice: random.Random) -> str:
    if dice.random() < EXCHANGED_VALUE_SHARE:
        value = dice.choice(material.values[label])
    if dice.random() < NEW_DIGITS_SHARE:
        value = re.sub(DIGITS, lambda _: dice.choice(string.digits), value)
    if dice.random() < INVENTED_WORD_SHARE:
        value = re.sub(r"\b[A-Z]?[a-z]{4,}\b", lambda found: _like(found[0], dice), value)
    return value


def _like(word: str, dice: random.Random) -> str:
    if dice.random() < 0.5:  # noqa: PLR2004  # leave half of the words as they are
        return word
    invented = invent_word(dice)
    return invented if word[0].isupper() else invented.lower()


def _with_article(name: str, dice: random.Random) -> str:
    needs_article = name.endswith((" Islands", " Republic")) or name.startswith("Republic")
    return "the " + name if needs_article or dice.random() < 0.03 else name  # noqa: PLR2004


def _templates(
    rows: list[Row], names: dict[str, str], values: dict[str, list[str]]
) -> dict[str, list[str]]:
    labels = {label.lower().replace(" ", "-"): label for label in values}
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        code, slug = row["id"].split("-", maxsplit=1)
        name = names[code]
        template = row["question"].replace("the " + name, "{c}").replace(name, "{c}")
        if "{c}" in template:
            found[labels[slug]].add(template)
    return {label: sorted(templates) for label, templates in found.items()}
