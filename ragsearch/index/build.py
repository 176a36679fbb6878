"""Settings become an index folder: corpus, passages, vectors, FAISS, manifest.

In: an `indexes` section. Out: a folder that appears all at once, and the open index. Streams:
of N passages neither texts nor vectors are held in memory, only what FAISS makes of them.

Axes: N passages, D embedding size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ragsearch.data.chunks import chunk_words
from ragsearch.data.passages import CorpusRow, PlacedText, iter_placed_corpus
from ragsearch.data.rows import MistakeList
from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.encoder import TextEncoder
from ragsearch.index.fingerprint import (
    CorpusDigest,
    corpus_of,
    fingerprint_of,
    index_fingerprint,
)
from ragsearch.index.manifest import (
    FORMAT,
    MANIFEST_FILE,
    PASSAGES_FILE,
    Canary,
    IndexManifest,
    Shard,
    file_check,
    read_manifest,
    shard_file,
    sketch_file,
    versions,
)
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.index.place import building, locked
from ragsearch.index.sketch import sketch_vectors
from ragsearch.index.store import Passage, PassageStore, windows, write_passages
from ragsearch.index.vectors import create, rehearse, search, write
from ragsearch.index.weights import fingerprint_model
from ragsearch.spec.index_section import ChunkSection, IndexSection

__all__ = ["build_index", "index_fingerprint"]

Report = Callable[[int, int], None]
"""Told (passages embedded, passages in all) after each window."""

_VECTORS_FILE = "vectors.f32"
_BATCHES_A_WINDOW = 16  # passages are sorted by length within a window


def build_index(
    settings: IndexSection,
    to: Path,
    *,
    report: Report | None = None,
    threads: int | None = None,
) -> PassageIndex:
    """Return the open index of these settings, built if it is not there yet.

    The folder appears when it is complete; an interrupted build leaves nothing at `to`. Of two
    processes that build at the same place one waits for the other and opens what it built.

    Args:
        settings: Corpus, chunking, encoder and FAISS factory, paths absolute.
        to: The index folder; missing, empty, or an index with the same fingerprint.
        report: Told the progress of embedding, the long part.
        threads: Threads FAISS builds with, all cores by default.

    Raises:
        BadInputError: If corpus, encoder or factory cannot be used, or `to` is occupied.
    """
    to = to.absolute()
    fingerprint = index_fingerprint(settings)
    with written_to(to), locked(to):
        built = already_built(to, fingerprint)
        if built is None:
            with building(to) as folder:
                _Build(settings, folder, fingerprint).run(report, threads)
    return built or open_index(to, verify=False)


@contextmanager
def written_to(to: Path) -> Iterator[None]:
    """Say in one sentence why a place cannot be written.

    Raises:
        BadInputError: If the system refuses.
    """
    try:
        yield
    except OSError as error:
        what = (
            f"cannot be written ({error.strerror or error}); make room or choose another folder"
        )
        raise BadInputError.single(to, what) from error


def already_built(to: Path, fingerprint: str) -> PassageIndex | None:
    """Return the index at its place; None if the place is free or the index damaged.

    Raises:
        BadInputError: If something else is there.
    """
    if to.is_file():
        raise BadInputError.single(to, "is a file; choose a folder for the index")
    if not to.is_dir() or not any(to.iterdir()):
        return None
    if not (to / MANIFEST_FILE).is_file():
        what = "is occupied by other files; choose an empty folder, or one that is not there"
        raise BadInputError.single(to, what)
    found = read_manifest(to).fingerprint
    if found != fingerprint:
        what = (
            f"holds another index, {found[:16]}, than these settings make, {fingerprint[:16]}; "
            "remove it or choose another folder"
        )
        raise BadInputError.single(to, what)
    try:
        return open_index(to)
    except BadInputError:  # damaged, and this is the command that mends it
        return None


def cut(row: CorpusRow, chunk: ChunkSection | None) -> Iterator[Passage]:
    """Cut a text into passages, the title on each.

    Yields:
        The text as it is without `chunk`; else runs of words, with ids `id#0`, `id#1`, ...
        where there are several.
    """
    texts = list(chunk_words(row.text, chunk.words, chunk.overlap)) if chunk else [row.text]
    for number, text in enumerate(texts):
        passage_id = f"{row.id}#{number}" if len(texts) > 1 else row.id
        yield Passage(passage_id, row.id, row.title, text)


@dataclass
class _Build:
    """One build on its way: the steps in order, and what later steps need of earlier ones."""

    settings: IndexSection
    folder: Path
    fingerprint: str
    digest: CorpusDigest = field(default_factory=CorpusDigest)
    n_texts: int = 0

    def run(self, report: Report | None, threads: int | None) -> None:
        """Fill the folder."""
        encoder = self._encoder()
        rehearse(self.settings.faiss, encoder.dimension)
        write_passages(self.folder / PASSAGES_FILE, self._passages(encoder))
        if fingerprint_of(self.settings, self.digest) != self.fingerprint:
            what = "changed while the index was built from it; build again"
            raise BadInputError.single(corpus_of(self.settings), what)
        store = PassageStore.open(self.folder / PASSAGES_FILE)
        if len(store) < self.settings.shards:
            what = f"{self.settings.shards} shards for {len(store)} passages; ask for fewer"
            raise BadInputError.single(corpus_of(self.settings), what, key="shards")
        vectors = self._embed(encoder, store, report)
        query = vectors[len(vectors) // 2]
        shards = tuple(self._shards(vectors, query, threads))
        self._manifest(encoder, shards, query).write(self.folder)
        (self.folder / _VECTORS_FILE).unlink()

    def _encoder(self) -> TextEncoder:
        settings = self.settings
        encoder = TextEncoder.load(
            settings.encoder, pooling=settings.pooling, normalise=settings.normalise
        )
        encoder.check_length(settings.max_length)
        return encoder

    def _passages(self, encoder: TextEncoder) -> Iterator[Passage]:
        """Yield every passage, then raise if some were longer than the encoder reads."""
        too_long = MistakeList(corpus_of(self.settings))
        for texts in windows(iter_placed_corpus(corpus_of(self.settings)), 1024):
            placed = [(text.place, passage) for text in texts for passage in self._cut(text)]
            passages = [passage for _, passage in placed]
            counts = encoder.n_tokens([p.title for p in passages], [p.text for p in passages])
            for (place, passage), n_tokens in zip(placed, counts, strict=True):
                if n_tokens > self.settings.max_length:
                    too_long.add(Mistake(place, "text", self._too_long(passage, n_tokens)))
            yield from passages
        too_long.raise_if_any()

    def _cut(self, text: PlacedText) -> Iterator[Passage]:
        self.n_texts += 1
        self.digest.add(text.row)
        return cut(text.row, self.settings.chunk)

    def _too_long(self, passage: Passage, n_tokens: int) -> str:
        return (
            f"passage {passage.id!r} has {n_tokens} tokens with its title, but the encoder "
            f"reads {self.settings.max_length}; set `chunk` to fewer words, or raise max_length"
        )

    def _embed(
        self, encoder: TextEncoder, store: PassageStore, report: Report | None
    ) -> Float32[np.ndarray, "N D"]:
        settings = self.settings
        shape = (len(store), encoder.dimension)
        vectors = np.memmap(self.folder / _VECTORS_FILE, np.float32, mode="w+", shape=shape)
        done = 0
        for passages in windows(store, _BATCHES_A_WINDOW * settings.batch_size):
            embedded = encoder.encode_passages(
                [passage.title for passage in passages],
                [passage.text for passage in passages],
                max_length=settings.max_length,
                batch_size=settings.batch_size,
            )
            if not np.isfinite(embedded).all():
                what = "gives NaN or infinite vectors; its weights are damaged"
                raise BadInputError.single(settings.encoder, what)
            vectors[done : done + len(passages)] = embedded
            done += len(passages)
            if report:
                report(done, len(store))
        return vectors

    def _shards(
        self,
        vectors: Float32[np.ndarray, "N D"],
        query: Float32[np.ndarray, " D"],
        threads: int | None,
    ) -> Iterator[Shard]:
        """Write the shards, one after another in memory, and yield what was written."""
        n_shards = self.settings.shards
        ends = np.linspace(0, len(vectors), n_shards + 1).astype(int).tolist()
        for number, (start, stop) in enumerate(pairwise(ends)):
            index = create(self.settings.faiss, vectors[start:stop], threads=threads)
            file = shard_file(number, n_shards)
            write(index, self.folder / file)
            sketch_vectors(index, self.folder / sketch_file(file))
            score = search(index, query[None], 1).scores[0, 0]
            yield Shard(file, start, stop, float(score))

    def _manifest(
        self,
        encoder: TextEncoder,
        shards: tuple[Shard, ...],
        query: Float32[np.ndarray, " D"],
    ) -> IndexManifest:
        settings, chunk = self.settings, self.settings.chunk
        files = [*(shard.file for shard in shards), PASSAGES_FILE]
        sketches = [sketch_file(shard.file) for shard in shards]
        files += [name for name in sketches if (self.folder / name).is_file()]
        return IndexManifest(
            format=FORMAT,
            fingerprint=self.fingerprint,
            n_passages=shards[-1].stop,
            n_texts=self.n_texts,
            dimension=encoder.dimension,
            encoder=settings.encoder,
            encoder_fingerprint=fingerprint_model(settings.encoder),
            pooling=encoder.pooling,
            normalise=settings.normalise,
            max_length=settings.max_length,
            chunk_words=chunk.words if chunk else None,
            chunk_overlap=chunk.overlap if chunk else 0,
            faiss=settings.faiss,
            files={name: file_check(self.folder / name) for name in files},
            canary=Canary(
                tuple(map(float, query)), max(shard.canary_score for shard in shards)
            ),
            shards=shards,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
        )
