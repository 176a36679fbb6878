"""The same index as stock Transformers' `RagRetriever` reads it: `index_name="custom"`.

In: an open index. Out: a folder with a `datasets` dataset (title, text, embeddings) and a FAISS
file, for `RagConfig(passages_path=, index_path=)`. Knows the format; loads nothing of RAG.
"""

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Sequence, Value

from ragsearch.errors import BadInputError
from ragsearch.index.manifest import FAISS_FILE
from ragsearch.index.open import PassageIndex
from ragsearch.index.store import Passage, windows
from ragsearch.index.vectors import create, write

PASSAGES = "passages"
"""Name of the dataset in the folder: Transformers' `passages_path`."""
FAISS = FAISS_FILE
"""Name of the FAISS file in the folder: Transformers' `index_path`."""
_ROWS_A_BATCH = 1024


def write_hf_dataset(index: PassageIndex, to: Path) -> None:
    """Write an index in Transformers' own format; stock code then finds the same passages.

    The vectors stand in both files, so this takes about twice the room of the index. Of an
    index in shards one FAISS index is made anew.

    Args:
        index: The open index.
        to: A folder that is missing or empty.

    Raises:
        BadInputError: If the folder is occupied.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadInputError.single(to, "is occupied; choose an empty folder")
    to.mkdir(parents=True, exist_ok=True)
    features = Features({
        "title": Value("string"),
        "text": Value("string"),
        "embeddings": Sequence(Value("float32")),
    })
    stream = to / "stream.arrow"
    _write_stream(stream, features.arrow_schema, index)
    Dataset.from_file(str(stream)).save_to_disk(to / PASSAGES)
    stream.unlink()
    if len(index.manifest.shards) == 1:
        shutil.copyfile(index.folder / FAISS_FILE, to / FAISS)
    else:
        _write_whole(index, to)


def _write_stream(path: Path, schema: pa.Schema, index: PassageIndex) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for passages, vectors in _rows(index):
            columns = [
                pa.array([passage.title for passage in passages], pa.string()),
                pa.array([passage.text for passage in passages], pa.string()),
                pa.array(list(vectors), pa.list_(pa.float32())),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _write_whole(index: PassageIndex, to: Path) -> None:
    """Write one FAISS index over the vectors of all shards: stock code reads one file."""
    manifest, path = index.manifest, to / "vectors.f32"
    shape = (manifest.n_passages, manifest.dimension)
    vectors = np.memmap(path, np.float32, mode="w+", shape=shape)
    done = 0
    for passages, block in _rows(index):
        vectors[done : done + len(passages)] = block
        done += len(passages)
    write(create(manifest.faiss, vectors), to / FAISS)
    path.unlink()


def _rows(index: PassageIndex) -> Iterator[tuple[list[Passage], np.ndarray]]:
    passages = iter(index.store)
    for shard in index.manifest.shards:
        # an index of its own: finding vectors by number may need a map searching does not
        vectors = faiss.read_index(str(index.folder / shard.file), faiss.IO_FLAG_MMAP_IFC)
        ivf = faiss.try_extract_index_ivf(vectors)
        if ivf is not None:
            ivf.make_direct_map()
        start = 0
        for block in windows(islice(passages, shard.stop - shard.start), _ROWS_A_BATCH):
            yield block, vectors.reconstruct_n(start, len(block))
            start += len(block)
