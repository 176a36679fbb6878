"""What every test shares: a quiet, offline environment and one set of tiny models and data."""

import os

# before anything imports torch, ray, mlflow or transformers: these are read at import
os.environ.update({
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
})

import hypothesis
import pytest
from jaxtyping import install_import_hook

# the same examples in every run, however busy the machine is
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

# from here on every call in these packages is checked: types, shapes, and that axes agree
install_import_hook(["ragsearch.index", "ragsearch.training"], "beartype.beartype")

from tests.tiny import Tiny, tiny_everything  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Return one of each tiny model and data file; read them, never write to them."""
    return tiny_everything(tmp_path_factory.mktemp("tiny"))
