"""From a raw World Factbook value to one that can be stated, asked for and copied exactly.

Raw values carry HTML, years, remarks in brackets and lists cut anywhere; what leaves here has
balanced brackets, whole list items and no markup. A value that resists is dropped (None).
"""

import html
import re
import unicodedata
from collections.abc import Callable

MAX_ANSWER_WORDS = 6
MAX_VALUE_WORDS = 10  # a longer value would push the passage over its token budget
VAGUE_ITEMS = ("other", "unspecified", "none", "various", "over ", "and other", "negl")
EMPTY_VALUES = {"", "none", "na", "negl", "unknown", "nan", "other", "n/a"}


def plain(raw: str) -> str | None:
    """Return the text without markup, remarks in brackets and anything after ';' or 'note'."""
    text = html.unescape(html.unescape(raw))
    text = re.split(r"<br\s*/?>|<p>\s*</p>", text, maxsplit=1)[0]
    text = re.sub(r"<[^>]+>", "", text)
    text = unicodedata.normalize("NFC", text).replace("\u2019", "'").replace("\u2018", "'")
    text = re.sub(r"[\u201c\u201d\u201e]", '"', text).replace("\u2013", "-")
    text = _without_brackets(text)
    text = re.split(r";|\bnote\b|\bincludes\b", text, maxsplit=1)[0]
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").replace("D.C.", "DC")
    text = text.strip(" ,-:").rstrip(".")
    return text if _is_presentable(text) else None


def short(raw: str) -> str | None:
    """Return a figure or name in this project's notation, or None if it runs on."""
    text = plain(raw)
    if text is None:
        return None
    text = re.sub(r"\s+of total population$", "", text)
    text = re.sub(r"\s+births/1,000 population$", " per 1,000 people", text)
    if re.match(r"0 (sq )?km$|0$", text) or len(text.split()) > MAX_VALUE_WORDS:
        return None
    track = re.match(r"([\d,.]+ km)\b", text)
    return track[1] if track else text


def clause(raw: str) -> str | None:
    """Return the first clause; it ends at a comma only where it would be too long to answer."""
    text = plain(raw)
    if text is not None and len(text.split()) > MAX_ANSWER_WORDS:
        text = text.split(",")[0].strip()
    if text is None or len(text.split()) > MAX_VALUE_WORDS or not _is_presentable(text):
        return None
    return text


def items(n_items: int) -> Callable[[str], str | None]:
    """Return a cutter that keeps the first whole items of a list, as many as fit an answer."""

    def cut(raw: str) -> str | None:
        text = plain(raw)
        kept: list[str] = []
        for item in (text or "").split(",")[:n_items]:
            name = re.sub(r"\s+\d[\d.]*%?$", "", item.strip()).removeprefix("and ")
            if n_words(kept) + len(name.split()) > MAX_ANSWER_WORDS:
                break
            if name and not name.lower().startswith(VAGUE_ITEMS):
                kept.append(name)
        return ", ".join(kept) or None

    return cut


def partner(raw: str) -> str | None:
    """Return the first name of a list of shares ("Italy 29%, France 14%" gives "Italy")."""
    name = items(1)(raw)
    return {"USA": "United States", "UK": "United Kingdom"}.get(name or "", name)


def quoted(raw: str) -> str | None:
    """Return the first title in quotation marks, without them."""
    text = re.sub(r"[\u201c\u201d\u201e]", '"', html.unescape(raw))
    found = re.search(r'"([^"]+)"', text)
    return short(found[1]) if found else None


def currency(raw: str) -> str | None:
    """Return the name of the money ("euros (EUR) per US dollar -" gives "euros")."""
    text = plain(raw.replace("per US dollar", ";"))
    return short(text.split(" or ")[0]) if text else None


def largest_city(raw: str) -> str | None:
    """Return the most populous of the cities listed, in ordinary case."""
    sizes: list[tuple[float, str]] = []
    pattern = r"([\d.,]+)\s+(million\s+)?([^,;\d]+)"
    for figure, million, city in re.findall(pattern, plain(raw) or ""):
        digits = figure.replace(",", "").strip(".")
        if digits.replace(".", "", 1).isdigit():
            sizes.append((float(digits) * (1e6 if million else 1.0), city.strip()))
    if not sizes:
        return None
    name = max(sizes)[1]
    return name.title() if name.isupper() else name


def variants(label: str, value: str) -> list[str]:
    """Return the value and the other spellings that answer the question just as well."""
    answers = [value]
    if label in {"Median age", "Life expectancy"}:
        answers.append(value.removesuffix(" years"))
    if value.endswith(" per 1,000 people"):
        answers.append(value.split(maxsplit=1)[0])
    if value.endswith(" km"):
        answers.append(value.replace("sq km", "square km").removesuffix("km") + "kilometers")
    if label == "National holiday" and "," in value:
        answers.append(value.split(",", maxsplit=1)[0])
    if label in {"Capital", "Highest point", "Lowest point"}:
        answers.append(re.sub(r",.*$|\s+-?[\d,.]+(\s+m)?$", "", value))
    if label == "Currency" and value.endswith("s"):
        answers.append(value.removesuffix("s"))
    answers += [_without_accents(answer) for answer in answers]
    return list(dict.fromkeys(answer for answer in answers if answer))


def n_words(values: list[str]) -> int:
    """Return how many words the values have together."""
    return sum(len(value.split()) for value in values)


def _without_brackets(text: str) -> str:
    while (shorter := re.sub(r"\s*[(\[][^()\[\]]*[)\]]", "", text)) != text:
        text = shorter
    return text


def _is_presentable(text: str) -> bool:
    balanced = not re.search(r"[()\[\]<>{}]", text) and text.count('"') % 2 == 0
    one_sentence = ". " not in text.replace("St. ", "") and ": " not in text
    return balanced and one_sentence and text.lower() not in EMPTY_VALUES


def _without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign))
