"""What `torch.compile` needs of a machine: it writes C++ or Triton, for others to compile.

Knows nothing of torch: a search that cannot be compiled is refused before anything is loaded.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from shutil import which

_ADVICE = "install it (on Debian and Ubuntu: apt-get install g++ python3-dev), or set false"


def why_not_compiled(*, on_gpu: bool) -> str | None:
    """Return what this machine lacks to run a compiled model, and what to do; None if nothing.

    Args:
        on_gpu: Whether the model is to run on a GPU, for which Triton asks a C compiler; else
            torch asks one of C++.
    """
    lacking = [*_lacking_compiler(on_gpu=on_gpu), *_lacking_headers()]
    return f"needs {' and '.join(lacking)}; {_ADVICE}" if lacking else None


def _lacking_compiler(*, on_gpu: bool) -> Iterator[str]:
    kind, variable = ("C", "CC") if on_gpu else ("C++", "CXX")
    known = {"C": ("gcc", "clang"), "C++": ("clang++" if sys.platform == "darwin" else "g++",)}
    asked = os.environ.get(variable)
    names = known[kind] if asked is None else (asked,)
    if not any(map(which, names)):
        told = f"{variable} is {asked}" if asked is not None else " or ".join(names)
        yield f"a {kind} compiler ({told}, and there is none)"


def _lacking_headers() -> Iterator[str]:
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        yield "the headers of Python (there is no Python.h)"
