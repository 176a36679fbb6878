"""Which index this will be, before it is built: one hash over contents and settings.

In: an `indexes` section. Out: a fingerprint that follows what is in the files, not where they
lie or when they were written. Reads the corpus and the encoder's files; imports no torch.
"""

import hashlib
import json
from pathlib import Path

from ragsearch.data.passages import CorpusRow, iter_corpus
from ragsearch.index.manifest import FORMAT
from ragsearch.index.weights import choose_pooling, fingerprint_model, model_config
from ragsearch.spec.index_section import IndexSection


class CorpusDigest:
    """A hash over the texts of a corpus, taken as they pass by."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, row: CorpusRow) -> None:
        """Take in one text."""
        # JSON keeps ("ab", "c") apart from ("a", "bc")
        self._digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")

    def value(self) -> str:
        """Return the hash over all texts so far."""
        return self._digest.hexdigest()


def index_fingerprint(settings: IndexSection) -> str:
    """Return the hash of the index these settings make.

    Reads the whole corpus and every byte of the encoder; equal contents give equal hashes
    wherever they lie.

    Raises:
        BadInputError: If the corpus or the encoder cannot be used.
    """
    digest = CorpusDigest()
    for row in iter_corpus(corpus_of(settings)):
        digest.add(row)
    return fingerprint_of(settings, digest)


def corpus_of(settings: IndexSection) -> Path:
    """Return the corpus of settings to build from."""
    assert settings.corpus is not None, "an index that is there already is not built"
    return Path(settings.corpus)


def fingerprint_of(settings: IndexSection, corpus: CorpusDigest) -> str:
    """Return the hash of an index whose corpus was read already.

    Raises:
        BadInputError: If the encoder cannot be used.
    """
    name = settings.encoder
    parts: dict[str, object] = {
        "format": FORMAT,
        "corpus": corpus.value(),
        "chunk": settings.chunk.model_dump() if settings.chunk else None,
        "encoder": fingerprint_model(name),
        "pooling": choose_pooling(model_config(name), settings.pooling, name),
        "normalise": settings.normalise,
        "max_length": settings.max_length,
        "faiss": settings.faiss,
    }
    if settings.shards > 1:  # left out where there is one: such hashes are older than shards
        parts["shards"] = settings.shards
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
