"""The command line: parse, call one function, print.

Results go to stdout, progress and logs to stderr. A `RagsearchError` becomes `error:` lines
and its exit code; anything else that is raised is our fault and ends with exit code 1.
Heavy libraries are imported inside the commands that need them.
"""

import logging
import os
import sys

from typing_extensions import override

from ragsearch.cli.app import app
from ragsearch.errors import RagsearchError

# Read by the libraries when they are imported, so set before any of them is.
_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # it announces each table it makes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 7 would hold Tune up for minutes
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a box even where verbose is 0
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TOKENIZERS_PARALLELISM": "false",  # tokenizers fork-warn under data loader workers
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def main() -> None:
    """Run the command that `sys.argv` names and exit with its code."""
    prepare_environment()
    configure_logging()
    try:
        app(prog_name="ragsearch")
    except RagsearchError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("RAGSEARCH_DEBUG"):
            raise
        _complain(_one_line(error))
        sys.exit(1)


def prepare_environment() -> None:
    """Switch telemetry and chatter off, unless the user has set it otherwise."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def configure_logging() -> None:
    """Write what ragsearch tells, and warnings of the libraries, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("ragsearch").setLevel(logging.INFO)


class _Plain(logging.Formatter):
    """News as they are, trouble with its level in front."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        quiet = record.levelno <= logging.INFO
        return text if quiet else f"{record.levelname.lower()}: {text}"


def _complain(message: str) -> None:
    for line in message.splitlines():
        sys.stderr.write(f"error: {line}\n")


def _one_line(error: Exception) -> str:
    first = (str(error).strip() or "no message").splitlines()[0]
    return (
        f"{type(error).__name__}: {first} (this should not happen; "
        "set RAGSEARCH_DEBUG=1 to see the traceback)"
    )
