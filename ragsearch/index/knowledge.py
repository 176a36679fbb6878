"""A knowledge set of the original scripts: passages, their vectors, and who embedded them.

In: a saved `datasets` folder with title, text and embeddings, and a FAISS file over them. Out:
rows and an index, and whether they belong together. Nothing pickled is read.

Axes: Q sampled passages, D embedding size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets import Dataset, load_from_disk
from jaxtyping import Float32

from ragsearch.data.passages import CorpusRow
from ragsearch.data.rows import BadRowError, MistakeList, clean, text_of
from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.encoder import TextEncoder
from ragsearch.index.vectors import read
from ragsearch.index.weights import AskedPooling

_COLUMNS = ("title", "text", "embeddings")
_N_SAMPLES = 16  # the cost of embedding them is seconds for a BERT of base size
_EXACT = 1e-4  # of a vector's length; FAISS keeps float32 as it is
_SAME_ENCODER = 0.05  # of a vector's length; half precision moves it by 0.002
_ROWS_A_BATCH = 1024
_PICKLED = (".pkl", ".pickle", ".dpr")  # of the legacy index


@dataclass(frozen=True)
class KnowledgeSet:
    """Where passages with their vectors lie, and what embedded them."""

    passages: Path
    """Folder that `Dataset.save_to_disk` wrote."""
    vectors: Path
    """FAISS file over its `embeddings`."""
    encoder: str
    """Context encoder that made them: a folder or a hub id."""
    pooling: AskedPooling = "auto"

    @cached_property
    def dataset(self) -> Dataset:
        """The passages, memory-mapped.

        Raises:
            BadInputError: If the folder is no such dataset.
        """
        pickled = [path for path in _files(self.passages) if path.suffix in _PICKLED]
        if pickled:
            raise _legacy(pickled[0])
        try:
            dataset = load_from_disk(str(self.passages))
        except IndexError as error:  # `datasets` 5.2 cannot put nothing together
            what = "holds no passages; give at least one"
            raise BadInputError.single(self.passages, what) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = "is no saved dataset; give the folder that `save_to_disk` wrote"
            raise BadInputError.single(self.passages, what) from error
        if not isinstance(dataset, Dataset):
            what = f"holds several datasets ({', '.join(dataset)}); give the folder of one"
            raise BadInputError.single(self.passages, what)
        missing = [name for name in _COLUMNS if name not in dataset.column_names]
        if missing:
            has = ", ".join(dataset.column_names)
            what = f"lacks {', '.join(missing)}; its columns are {has}"
            raise BadInputError.single(self.passages, what)
        return dataset

    @cached_property
    def index(self) -> faiss.Index:
        """The FAISS index, in memory.

        Raises:
            BadInputError: If it is none that can be imported.
        """
        if self.vectors.suffix in _PICKLED:
            raise _legacy(self.vectors)
        if not self.vectors.is_file():
            raise BadInputError.single(self.vectors, "no such file; give the FAISS file")
        return read(self.vectors, in_memory=True)

    def rows(self) -> Iterator[CorpusRow]:
        """Give the passages, their ids the numbers of their rows, from 1.

        Yields:
            Rows without a mistake.

        Raises:
            BadInputError: After the last row, with every mistake (at most 20, and a count).
        """
        mistakes, number = MistakeList(self.passages), 0
        texts = self.dataset.select_columns(["title", "text"])
        for batch in texts.iter(batch_size=_ROWS_A_BATCH):
            for title, text in zip(batch["title"], batch["text"], strict=True):
                number += 1
                try:
                    kept = text_of({"text": text}, "text")
                    yield CorpusRow(str(number), clean(title or ""), kept)
                except BadRowError as error:
                    place = f"{self.passages}: row {number}"
                    mistakes.add(Mistake(place, "text", str(error)))
        mistakes.raise_if_any()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else [folder]


def _legacy(path: Path) -> BadInputError:
    what = (
        "is of the pickled legacy index, which is not read, for unpickling runs code; give its "
        "texts to `ragsearch index build`"
    )
    return BadInputError.single(path, what)


def factory_of(knowledge: KnowledgeSet) -> str:
    """Return the factory string that would make such an index.

    Raises:
        BadInputError: If it is of a kind that is not imported.
    """
    index = _kind_of(knowledge.index)
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        what = "does not search by inner product, by which RAG scores; build it anew"
        raise BadInputError.single(knowledge.vectors, what)
    if isinstance(index, faiss.IndexFlat):
        return "Flat"
    if isinstance(index, faiss.IndexHNSWFlat):
        graph: Any = index.hnsw
        return f"HNSW{graph.nb_neighbors(1)},Flat"
    if isinstance(index, faiss.IndexIVFFlat):
        quantizer = _kind_of(index.quantizer)
        if isinstance(quantizer, faiss.IndexFlat):
            return f"IVF{index.nlist},Flat"
    what = (
        f"is an {type(index).__name__}, and only flat, HNSW and IVF indexes of whole vectors "
        "are imported; `ragsearch index build` makes others"
    )
    raise BadInputError.single(knowledge.vectors, what)


def check_shape(knowledge: KnowledgeSet, encoder: TextEncoder) -> None:
    """Refuse passages, vectors and an encoder that differ in number or width.

    Raises:
        BadInputError: With everything that is wrong.
    """
    index, dataset = knowledge.index, knowledge.dataset
    mistakes = []
    if index.ntotal != len(dataset):
        what = f"holds {index.ntotal} vectors, but {knowledge.passages} {len(dataset)} passages"
        mistakes.append(Mistake(str(knowledge.vectors), "", f"{what}; give files of one set"))
    width = len(dataset[0]["embeddings"])
    if index.d != width:
        what = f"has vectors of {index.d} numbers, but the embeddings have {width}"
        mistakes.append(Mistake(str(knowledge.vectors), "", f"{what}; give files of one set"))
    if encoder.dimension != width:
        what = f"gives vectors of {encoder.dimension} numbers, but the embeddings have {width}"
        mistakes.append(Mistake(knowledge.encoder, "", f"{what}; name the encoder of the set"))
    if mistakes:
        raise BadInputError(mistakes)


def check_vectors(knowledge: KnowledgeSet, encoder: TextEncoder, max_length: int) -> None:
    """Compare the vectors of a few passages: in the dataset, in the index, embedded again.

    Args:
        knowledge: A set whose rows are sound.
        encoder: Its encoder, open.
        max_length: Tokens of a passage that it read.

    Raises:
        BadInputError: If they differ in the index, or as the encoder gives them.
    """
    n_rows = len(knowledge.dataset)
    rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, _N_SAMPLES)).astype(np.int64))
    sampled = knowledge.dataset[rows]
    said = np.array(sampled["embeddings"], dtype=np.float32)
    mistakes = []
    if (row := _unlike(said, reconstructed(knowledge.index, rows), _EXACT)) is not None:
        what = f"has another vector of row {rows[row] + 1} than the dataset; index it anew"
        mistakes.append(Mistake(str(knowledge.vectors), "", what))
    again = encoder.encode_passages(
        [title or "" for title in sampled["title"]], sampled["text"], max_length=max_length
    )
    if (row := _unlike(said, again, _SAME_ENCODER)) is not None:
        what = f"gives another vector for row {rows[row] + 1} than the dataset has; name the"
        mistakes.append(Mistake(knowledge.encoder, "", f"{what} encoder that made it"))
    if mistakes:
        raise BadInputError(mistakes)


def _unlike(
    left: Float32[np.ndarray, "Q D"], right: Float32[np.ndarray, "Q D"], tolerance: float
) -> int | None:
    """Return the first row in which two sets of vectors differ, None if there is none."""
    distance = np.linalg.norm(left - right, axis=1)
    is_like = distance <= tolerance * np.linalg.norm(left, axis=1)  # not so for NaN
    return None if is_like.all() else int(np.argmin(is_like))


def reconstructed(index: faiss.Index, rows: np.ndarray) -> Float32[np.ndarray, "Q D"]:
    """Return the vectors of passages by number."""
    kind = _kind_of(index)
    is_ivf = isinstance(kind, faiss.IndexIVF)
    if is_ivf:
        kind.make_direct_map()
    vectors: np.ndarray = np.stack([index.reconstruct(int(row)) for row in rows])
    if is_ivf:
        kind.make_direct_map(False)  # noqa: FBT003 - FAISS names no arguments
    return vectors


def _kind_of(index: faiss.Index) -> Any:  # noqa: ANN401 - FAISS' stubs lack what its kinds have
    """Return an index as what it is; good only while the index is held, which owns it."""
    return faiss.downcast_index(index)
