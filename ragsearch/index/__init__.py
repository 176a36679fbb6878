"""An index: the passages of a corpus, their vectors, and the hash that says which index it is.

In: an `indexes` section of a space file. Out: a folder that opens memory-mapped in
milliseconds, and `Hits` for query vectors. Knows FAISS, Transformers and Arrow; knows nothing
of Ray, trials or MLflow. Importing this package loads none of them.

The modules, in the order the data travels:

- `weights`: model folders, from disk or the hub, and the hash of what is in them
- `pooling`: token vectors become one vector
- `encoder`: texts become vectors
- `sketch`: a byte a number that rules out most passages of an exact search
- `fingerprint`: which index this will be, before it is built
- `store`: passages in a memory-mapped Arrow file
- `vectors`: FAISS indexes from a factory string, made and read
- `manifest`: what an index folder says of itself
- `place`: one builder at a time, and the folder appears all at once
- `build`: settings become an index folder
- `merge`: the hits of shards become those of the index
- `open`: an index folder becomes a `PassageIndex`, checked
- `hits`: what a search returns
- `knowledge`: a knowledge set of the original scripts, checked
- `hf_import`: such a set becomes an index folder
- `hf`: the same index as stock Transformers' `RagRetriever` reads it
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragsearch.index.build import build_index
    from ragsearch.index.encoder import TextEncoder
    from ragsearch.index.fingerprint import index_fingerprint
    from ragsearch.index.hf import write_hf_dataset
    from ragsearch.index.hits import Hits
    from ragsearch.index.manifest import IndexManifest, read_manifest
    from ragsearch.index.open import PassageIndex, open_index
    from ragsearch.index.store import Passage, PassageStore
    from ragsearch.index.weights import fingerprint_model

__all__ = [
    "Hits",
    "IndexManifest",
    "Passage",
    "PassageIndex",
    "PassageStore",
    "TextEncoder",
    "build_index",
    "fingerprint_model",
    "index_fingerprint",
    "open_index",
    "read_manifest",
    "write_hf_dataset",
]

_HOMES = {
    "Hits": "hits",
    "IndexManifest": "manifest",
    "Passage": "store",
    "PassageIndex": "open",
    "PassageStore": "store",
    "TextEncoder": "encoder",
    "build_index": "build",
    "fingerprint_model": "weights",
    "index_fingerprint": "fingerprint",
    "open_index": "open",
    "read_manifest": "manifest",
    "write_hf_dataset": "hf",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
