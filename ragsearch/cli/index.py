"""Commands over indexes: build, import, info."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ragsearch.cli.options import Json, Output, Overrides
from ragsearch.cli.printing import print_json, print_pairs, progress_bar
from ragsearch.errors import BadInputError, Mistake

if TYPE_CHECKING:
    from ragsearch.index.manifest import IndexManifest
    from ragsearch.spec import IndexSection

commands = typer.Typer(
    help="Build and look at indexes.",
    epilog="Example: ragsearch index build kb/space.yaml",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_OPTION_OF = {"chunk": "--words and --overlap", "corpus": "CORPUS"}
_SPACE_SUFFIXES = {".yaml", ".yml"}

Source = Annotated[Path, typer.Argument(metavar="SPACE.yaml|CORPUS", help="What to index.")]
Index = Annotated[str | None, typer.Option("--index", help="Only this index of a space file.")]
To = Annotated[
    Path | None,
    typer.Option("--to", help="Folder to write; by default OUTPUT/indexes/FINGERPRINT."),
]
Encoder = Annotated[
    str | None, typer.Option(help="Context encoder of a corpus: folder or hub id.")
]
Faiss = Annotated[str | None, typer.Option(help="FAISS factory string [default: Flat].")]
Words = Annotated[
    int | None, typer.Option(help="Words a passage; by default each text is one passage.")
]
Overlap = Annotated[int | None, typer.Option(help="Words that neighbouring passages share.")]
Shards = Annotated[
    int | None, typer.Option(help="FAISS indexes to divide the passages among [default: 1].")
]
Pooling = Annotated[str | None, typer.Option(help="auto, pooler, cls or mean [default: auto].")]


@commands.command(
    epilog=(
        "Example: ragsearch index build data/kb.jsonl --words 100 --overlap 20 "
        "--encoder facebook/dpr-ctx_encoder-single-nq-base --faiss HNSW32,Flat --to kb-index"
    )
)
def build(  # noqa: PLR0913 - an index has that many settings
    source: Source,
    *,
    index: Index = None,
    override: Overrides = None,
    encoder: Encoder = None,
    faiss: Faiss = None,
    words: Words = None,
    overlap: Overlap = None,
    pooling: Pooling = None,
    shards: Shards = None,
    to: To = None,
    output: Output = Path("runs"),
) -> None:
    """Build the indexes of a space file, or one of a corpus.

    A corpus is a jsonl, tsv, csv or parquet file with id, title and text, or a folder of text
    files. What was built from the same contents and settings is not built again. An
    interrupted build leaves nothing that looks finished.
    """
    of_corpus = {
        "encoder": encoder, "faiss": faiss, "words": words, "overlap": overlap,
        "pooling": pooling, "shards": shards,
    }  # fmt: skip
    if source.suffix.lower() in _SPACE_SUFFIXES:
        _refuse(of_corpus, "is for a corpus; a space file says it under 'indexes'")
        wanted = _indexes_of(source, override or [], index)
    else:
        _refuse({"index": index, "override": override}, "is for a space file")
        wanted = [_index_over(source, of_corpus)]
    if to is not None and len(wanted) > 1:
        raise BadInputError.single(
            "--to", f"{source} has {len(wanted)} indexes; choose one with --index"
        )
    for settings in wanted:
        _build_one(settings, to, output)


@commands.command(
    name="import",
    epilog=(
        "Example: ragsearch index import kb/my_knowledge_dataset "
        "kb/my_knowledge_dataset_hnsw_index.faiss --to kb-index "
        "--encoder facebook/dpr-ctx_encoder-multiset-base"
    ),
)
def import_set(
    passages: Annotated[
        Path,
        typer.Argument(metavar="DATASET_DIR", help="Saved dataset: title, text, embeddings."),
    ],
    vectors: Annotated[Path, typer.Argument(metavar="FAISS_FILE", help="Index over it.")],
    *,
    encoder: Annotated[
        str, typer.Option(help="Context encoder that embedded it: folder or hub id.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="New folder to write.")],
    pooling: Annotated[
        Literal["auto", "pooler", "cls", "mean"], typer.Option(help="As in a space file.")
    ] = "auto",
) -> None:
    """Take over an index of Transformers' RAG scripts.

    That is what `use_own_knowledge_dataset.py` wrote, and `export --hf-retriever` writes. Rows,
    dimension, metric and a sample of the vectors are compared, the sample also with what the
    encoder gives. A space file uses the new folder as `indexes: {kb: {folder: DIR}}`.
    """
    from ragsearch.index.hf_import import KnowledgeSet, import_index
    from ragsearch.spec.paths import resolve_model

    model = resolve_model(encoder, Path.cwd())
    imported = import_index(KnowledgeSet(passages, vectors, model, pooling), to)
    _show(to, imported.manifest, json=False)


@commands.command(epilog="Example: ragsearch index info runs/indexes/0123456789abcdef")
def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Index folder.")],
    *,
    json: Json = False,
) -> None:
    """Say what an index holds, after checking that its files are whole."""
    from ragsearch.index.open import open_index

    _show(folder, open_index(folder).manifest, json=json)


def _show(folder: Path, manifest: "IndexManifest", *, json: bool) -> None:
    facts = {"folder": str(folder), **asdict(manifest)}
    del facts["canary"]  # for `open_index`: says nothing to people
    if json:
        print_json(facts)
        return
    files = [f"{name} ({file.bytes:,} bytes)" for name, file in manifest.files.items()]
    versions = [f"{name} {version}" for name, version in manifest.versions.items()]
    shards = [f"passages {s.start:,} to {s.stop - 1:,} ({s.file})" for s in manifest.shards]
    lists = {"files": files, "shards": shards, "versions": versions}
    print_pairs(facts | {name: ", ".join(each) for name, each in lists.items()})


def _refuse(options: Mapping[str, object], what: str) -> None:
    mistakes = [
        Mistake(f"--{name}", "", what)
        for name, value in options.items()
        if value is not None and value != []
    ]
    if mistakes:
        raise BadInputError(mistakes)


def _indexes_of(source: Path, override: list[str], name: str | None) -> "list[IndexSection]":
    from ragsearch.spec import load_spec

    indexes = load_spec(source, override).file.indexes
    if name is not None and name not in indexes:
        raise BadInputError.single(
            "--index", f"{source} has no index {name!r}; there are: {', '.join(indexes)}"
        )
    wanted = list(indexes.values()) if name is None else [indexes[name]]
    to_build = [index for index in wanted if index.corpus is not None]
    if not to_build:
        what = "nothing to build: the index is a folder that is there already"
        raise BadInputError.single(source, what, key=f"indexes.{name or '*'}.folder")
    return to_build


def _index_over(corpus: Path, options: Mapping[str, object]) -> "IndexSection":
    """Make the section that a space file would have, from options.

    Returns:
        The section, its paths absolute.

    Raises:
        BadInputError: If an option is wrong, or there is no encoder.
    """
    from pydantic import ValidationError

    from ragsearch.spec import IndexSection
    from ragsearch.spec.messages import findings_of
    from ragsearch.spec.paths import resolve_model

    given = {name: value for name, value in options.items() if value is not None}
    if (encoder := given.pop("encoder", None)) is None:
        raise BadInputError.single("--encoder", "is missing; name the context encoder")
    chunk = {name: given.pop(name) for name in ("words", "overlap") if name in given}
    settings = {
        "corpus": str(corpus.absolute()),
        "encoder": resolve_model(str(encoder), Path.cwd()),
        "chunk": chunk or None,
        **given,
    }
    try:
        return IndexSection.model_validate(settings)
    except ValidationError as error:
        findings = findings_of(error, IndexSection)
        raise BadInputError(
            Mistake(_OPTION_OF.get(str(one.path[-1]), f"--{one.path[-1]}"), "", one.what)
            for one in findings
        ) from error


def _build_one(settings: "IndexSection", to: Path | None, output: Path) -> None:
    from ragsearch.index.build import build_index, index_fingerprint
    from ragsearch.search.run import index_folder

    folder = to or index_folder(output, index_fingerprint(settings))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar("passages embedded") as report:
        built = build_index(settings, folder, report=report)
    _show(folder, built.manifest, json=False)
