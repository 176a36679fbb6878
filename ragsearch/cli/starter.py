"""The files `ragsearch init` copies, from the checkout or from the installed wheel."""

import shutil
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from ragsearch.errors import BadInputError, Mistake

SCHEMA = "space.schema.json"
"""File by which editors complete and check space files; it lies beside them."""
_SAMPLE_FOLDERS = ("data", "models")


def copy_starter(folder: Path, *, with_sample: bool) -> list[Path]:
    """Write `space.yaml` and its schema, with the sample also `data/` and `models/`.

    Returns:
        What was written: the space file, the schema and the top of each folder.

    Raises:
        BadInputError: If any of it exists already; then nothing is written.
    """
    wanted = [
        folder / "space.yaml",
        folder / SCHEMA,
        *(folder / name for name in _SAMPLE_FOLDERS if with_sample),
    ]
    _refuse_existing(folder, wanted)
    text = (shipped_spaces() / "starter.yaml").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    if with_sample:
        text = text.replace("package:quickstart/", "")
        for name in _SAMPLE_FOLDERS:
            _copy_folder(files("ragsearch") / "quickstart" / name, folder / name)
    wanted[0].write_text(text, encoding="utf-8")
    wanted[1].write_bytes((shipped_spaces() / SCHEMA).read_bytes())
    return wanted


def shipped_spaces() -> Traversable:
    """Find the folder of shipped space files: inside the wheel, or beside the package."""
    package = files("ragsearch")
    inside = package / "search_spaces"
    if inside.is_dir():
        return inside
    with as_file(package) as folder:
        return folder.parent / "search_spaces"


def _refuse_existing(folder: Path, wanted: list[Path]) -> None:
    mistakes = [
        Mistake(str(path), "", "exists already; choose another folder or move it away")
        for path in wanted
        if path.exists()
    ]
    if not mistakes and folder.exists() and not folder.is_dir():
        mistakes = [Mistake(str(folder), "", "is a file; give a folder")]
    if mistakes:
        raise BadInputError(mistakes)


def _copy_folder(source: Traversable, target: Path) -> None:
    with as_file(source) as folder:
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"))
