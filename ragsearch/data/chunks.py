"""How a long text becomes passages: runs of words that may overlap.

Words are what blanks separate; the blanks between them become single spaces.
"""

from collections.abc import Iterator


def chunk_words(text: str, words: int, overlap: int = 0) -> Iterator[str]:
    """Cut a text into passages of so many words.

    The last passage may be shorter; it always holds a word the one before lacks.

    Args:
        text: Any text; without a word it gives no passage.
        words: Words a passage.
        overlap: Words a passage shares with the one before; smaller than `words`.

    Yields:
        The passages in reading order.
    """
    found = text.split()
    for start in range(0, max(len(found) - overlap, min(len(found), 1)), words - overlap):
        yield " ".join(found[start : start + words])


def n_chunks(n_words: int, words: int, overlap: int = 0) -> int:
    """Return how many passages `chunk_words` makes of a text of so many words."""
    return len(range(0, max(n_words - overlap, min(n_words, 1)), words - overlap))
