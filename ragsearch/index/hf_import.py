"""A knowledge set of the original scripts becomes an index folder, its vectors as they are.

In: what `use_own_knowledge_dataset.py` and `write_hf_dataset` write. Out: what `build_index`
would have made. Nothing is embedded again but a few passages, which tell whether the encoder is
the one it is said to be.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ragsearch.index.build import already_built, written_to
from ragsearch.index.encoder import TextEncoder
from ragsearch.index.fingerprint import CorpusDigest
from ragsearch.index.knowledge import (
    KnowledgeSet,
    check_shape,
    check_vectors,
    factory_of,
    reconstructed,
)
from ragsearch.index.manifest import (
    FAISS_FILE,
    FORMAT,
    PASSAGES_FILE,
    Canary,
    IndexManifest,
    Shard,
    file_check,
    sketch_file,
    versions,
)
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.index.place import building, locked
from ragsearch.index.sketch import sketch_vectors
from ragsearch.index.store import Passage, write_passages
from ragsearch.index.vectors import read, search, set_effort, write
from ragsearch.index.weights import fingerprint_model, sha256_file

__all__ = ["KnowledgeSet", "import_index"]

_MOST_TOKENS = 512  # the original cut passages where the model's positions end


def import_index(knowledge: KnowledgeSet, to: Path) -> PassageIndex:
    """Return the open index of a knowledge set, imported if it is not there yet.

    A search in it looks as far as in an index built here (`ef_search` 64, `nprobe` the root of
    the cells), further than FAISS' own defaults, which the original left.

    Args:
        knowledge: What to import; nothing of it is changed.
        to: The index folder; missing, empty, or the same index.

    Raises:
        BadInputError: If passages, vectors and encoder do not belong together, with everything
            that is wrong; or `to` is occupied.
    """
    to = to.absolute()
    factory = factory_of(knowledge)
    encoder = TextEncoder.load(knowledge.encoder, pooling=knowledge.pooling)
    max_length = min(
        _MOST_TOKENS, getattr(encoder.model.config, "max_position_embeddings", 512)
    )
    check_shape(knowledge, encoder)
    fingerprint = _fingerprint(knowledge, encoder)  # reads every row: a mistake is told first
    check_vectors(knowledge, encoder, max_length)
    with written_to(to), locked(to):
        built = already_built(to, fingerprint)
        if built is None:
            with building(to) as folder:
                canary = _fill(folder, knowledge)
                _manifest(folder, fingerprint, factory, canary, encoder, max_length).write(
                    folder
                )
    return built or open_index(to, verify=False)


def _fingerprint(knowledge: KnowledgeSet, encoder: TextEncoder) -> str:
    """Return the hash of the index, over the contents of both files and of the encoder."""
    digest = CorpusDigest()
    for row in knowledge.rows():
        digest.add(row)
    parts = {
        "format": FORMAT,
        "corpus": digest.value(),
        "vectors": sha256_file(knowledge.vectors),
        "encoder": fingerprint_model(knowledge.encoder),
        "pooling": encoder.pooling,
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _fill(folder: Path, knowledge: KnowledgeSet) -> Canary:
    """Write passages, vectors and sketch, and return one search whose result is known."""
    index = knowledge.index
    passages = (Passage(row.id, row.id, row.title, row.text) for row in knowledge.rows())
    write_passages(folder / PASSAGES_FILE, passages)
    set_effort(index)
    write(index, folder / FAISS_FILE)
    sketch_vectors(index, folder / sketch_file(FAISS_FILE))
    query = reconstructed(index, np.array([index.ntotal // 2]))
    score = float(search(index, query, 1).scores[0, 0])
    return Canary(tuple(map(float, query[0])), score)


def _manifest(
    folder: Path,
    fingerprint: str,
    factory: str,
    canary: Canary,
    encoder: TextEncoder,
    max_length: int,
) -> IndexManifest:
    index = read(folder / FAISS_FILE)
    return IndexManifest(
        format=FORMAT,
        fingerprint=fingerprint,
        n_passages=index.ntotal,
        n_texts=index.ntotal,
        dimension=index.d,
        encoder=encoder.name,
        encoder_fingerprint=fingerprint_model(encoder.name),
        pooling=encoder.pooling,
        normalise=False,
        max_length=max_length,
        chunk_words=None,
        chunk_overlap=0,
        faiss=factory,
        files={file.name: file_check(file) for file in sorted(folder.iterdir())},
        canary=canary,
        shards=(Shard(FAISS_FILE, 0, index.ntotal, canary.score),),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
    )
