"""The keys of an index in a space file."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ragsearch.spec.section import Count, Section, Text


class ChunkSection(Section):
    """How long texts become passages."""

    words: Count = 100
    """Words a passage."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """Words that neighbouring passages of one text share."""

    @model_validator(mode="after")
    def _overlap_is_shorter(self) -> "ChunkSection":
        if self.overlap >= self.words:
            raise ValueError(
                f"overlap {self.overlap} must be smaller than words {self.words}; lower it"
            )
        return self


class IndexSection(Section):
    """One index: which corpus, cut how, embedded by what, searched by which FAISS index.

    Or the folder of an index that is there already.
    """

    corpus: Text | None = None
    """Texts: jsonl, tsv, csv, parquet with id, title, text; a csv with tabs and no header, of
    title and text; or a folder of text files."""
    folder: Text | None = None
    """Index folder that was built or imported before, instead of a corpus; its encoder and its
    FAISS settings are read from there, and the other keys left out."""
    chunk: ChunkSection | None = None
    """Cut texts into passages of words; by default each text is one passage."""
    encoder: Text
    """Context encoder: a folder or a hub id."""
    pooling: Literal["auto", "pooler", "cls", "mean"] = "auto"
    """How token vectors become one: DPR's pooler, the first token, the mean; `auto` takes
    `pooler` for a DPR encoder and `mean` for any other."""
    normalise: bool = False
    """Scale vectors to length 1, so that inner product is cosine."""
    faiss: Text = "Flat"
    """FAISS factory string; the metric is inner product."""
    shards: Count = 1
    """FAISS indexes to divide the passages among, each in its own file and with replicas of
    its own: for an index too large for one node."""
    max_length: Annotated[int, Field(ge=8, le=512)] = 256
    """Tokens of title and text the context encoder reads."""
    batch_size: Count = 64
    """Passages embedded at a time."""

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> "IndexSection":
        if (self.corpus is None) == (self.folder is None):
            has = "neither corpus nor folder" if self.corpus is None else "corpus and folder"
            raise ValueError(f"has {has}; give the one or the other")
        return self
