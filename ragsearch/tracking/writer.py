"""MLflow in a process of its own: 20 ms of computing a trial, which Tune's loop would wait for.

A request is a line of JSON, and so is the answer: what is known of one trial goes there, what
MLflow has of it now comes back. The process keeps nothing, so that another may take its place;
it ends when its input does, as happens when the search's process dies. The URI may hold a
password, and is the first line of its input: every user of the machine can read arguments.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from ragsearch.tracking.child import Child, Parent, Point, Told

# What MLflow's stores raise when they cannot be reached or refuse.
TROUBLE = (MlflowException, SQLAlchemyError, OSError)


class Writer:
    """The search's end of the process; one thread at a time may use it."""

    def __init__(self, uri: str) -> None:
        """Prepare; the process starts with the first request.

        Args:
            uri: MLflow tracking URI.
        """
        self._uri = uri
        self._process: subprocess.Popen[str] | None = None

    def bring_up_to_date(self, child: Child, parent: Parent) -> None:
        """Tell MLflow everything about a trial that it does not know yet.

        Raises:
            OSError: If MLflow cannot be reached or refuses; what it took is noted in the child.
            RuntimeError: If there is a bug.
        """
        request = json.dumps([asdict(parent), asdict(child)])  # of now: it may get more
        child.may_exist = True  # should no answer come
        answer = self._ask(request)
        child.note_told(Told(**answer["told"]))
        if "bug" in answer:
            raise RuntimeError(answer["bug"])
        if "trouble" in answer:
            raise OSError(answer["trouble"])

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(BrokenPipeError), process:
                pass  # its input ends, and so does it

    def _ask(self, request: str) -> dict[str, Any]:  # Any: as JSON has it
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it died
        self._process = self._process or self._start()
        requests, answers = _pipes(self._process)
        requests.write(request + "\n")
        requests.flush()
        if not (answer := answers.readline()):
            code = self._process.wait()
            raise OSError(f"the process that writes to it ended with exit code {code}")
        return dict(json.loads(answer))

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us: there is more to be written
        )
        _pipes(process)[0].write(json.dumps(self._uri) + "\n")
        return process


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None  # both were asked for
    assert process.stdout is not None
    return process.stdin, process.stdout


def _answers(requests: IO[str], answers: IO[str]) -> None:
    """Do what is asked until nobody asks."""
    uri = json.loads(requests.readline())
    client: MlflowClient | None = None
    for request in requests:
        parent, row = json.loads(request)
        child = Child(**row | {"points": [Point(**point) for point in row["points"]]})
        n_points, n_files = len(child.points), len(child.files)
        answer = dict[str, object]()
        try:
            client = client or MlflowClient(uri)
            child.bring_up_to_date(client, Parent(**parent))
        except TROUBLE as error:
            answer["trouble"] = str(error)
        except Exception as error:  # noqa: BLE001 - told to whom it concerns
            answer["bug"] = f"{type(error).__name__}: {error}"
        answer["told"] = asdict(child.told(n_points, n_files))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Write what is asked for."""
    # what MLflow prints is no answer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with suppress(BrokenPipeError, KeyboardInterrupt):  # nobody is there any more
        _answers(sys.stdin, answers)


if __name__ == "__main__":
    main()
