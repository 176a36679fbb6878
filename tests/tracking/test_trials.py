"""Trials in MLflow: what the callback writes of a real Tune run, and what it survives."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from uuid import uuid4

import pytest
import ray
from mlflow import MlflowClient
from mlflow.entities import Run
from ray import tune

from ragsearch.tracking.search_run import SearchRun
from ragsearch.tracking.trials import Known, TrialRuns

N_EPOCHS = 50
N_TRIALS = 20


def resolve(config: Mapping[str, object]) -> dict[str, object]:
    defaults = {
        "train.max_epochs": N_EPOCHS,
        "optim.learning_rate": 3.0e-5,
        "retrieval.k": None,
    }
    return defaults | {key: value for key, value in config.items() if key != "trial"}


def how_it_ended(trial: object, *, failed: bool) -> tuple[str, str | None]:
    if failed:
        return "failed", "out of luck"
    is_last = trial.last_result.get("is_last")
    return ("finished" if is_last else "stopped_early"), None


@dataclass
class FakeTrial:
    """What the callback reads of a Tune trial."""

    config: dict[str, object]
    status: str = "RUNNING"
    last_result: dict[str, object] = field(default_factory=dict)
    path: str | None = None


@dataclass
class Clock:
    """Time that moves when told to."""

    now_s: float = 1_700_000_000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """Where MLflow lies; making a database takes seconds, so there is one for all tests."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def search(uri) -> SearchRun:
    return SearchRun.open(uri, "kb", "kb-1", identity=uuid4().hex, params={}, tags={})


@pytest.fixture
def clock() -> Clock:
    return Clock()


def runs_of(search: SearchRun) -> dict[str, Run]:
    """Child runs by trial number."""
    found = MlflowClient(search.uri).search_runs(
        [search.experiment_id], f"tags.`mlflow.parentRunId` = '{search.run_id}'"
    )
    return {run.data.tags["ragsearch.trial"]: run for run in found}


def history(search: SearchRun, run: Run, key: str) -> list[tuple[int, float]]:
    points = MlflowClient(search.uri).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in points]


def callback(search: SearchRun, clock: Clock, ended=how_it_ended) -> TrialRuns:
    runs = search.trial_runs(resolve, ended)
    runs._clock, runs._sleep, runs._thread = clock, clock.sleep, AtOnce()
    runs._writer = InProcess(MlflowClient(search.uri))
    return runs


@dataclass
class InProcess:
    """A writer that is no process: quick to start, and its MLflow can be exchanged."""

    client: object

    def bring_up_to_date(self, child, parent) -> None:
        """Write it here."""
        child.bring_up_to_date(self.client, parent)

    def close(self) -> None:
        """There is nothing to close."""


class AtOnce(Executor):
    """A thread that is always done."""

    def submit(self, call, /, *args):
        """Do it now."""
        done = Future()
        done.set_result(call(*args))
        return done


def start(runs: TrialRuns, number: int = 0, **config: object) -> FakeTrial:
    trial = FakeTrial({"trial": number, **config})
    runs.log_trial_start(trial)
    return trial


def report(runs: TrialRuns, trial: FakeTrial, epoch: int) -> None:
    metrics = {"val/em": epoch / 100, "train/loss": 1.0}
    is_last = epoch == N_EPOCHS
    trial.last_result = {
        "epoch": epoch,
        "is_last": is_last,
        **metrics,
        "timestamp": runs._clock(),
    }
    runs.log_trial_result(epoch, trial, trial.last_result)


class Broken:
    """MLflow that cannot be reached."""

    def __getattr__(self, name):
        raise ConnectionError("no route to MLflow")


def test_a_trial_is_a_child_run_with_the_whole_configuration(search, clock):
    runs = callback(search, clock)

    start(runs, 3, **{"optim.learning_rate": 1.0e-4})

    run = runs_of(search)["3"]
    assert run.info.run_name == "trial 3"
    assert run.info.status == "RUNNING"
    assert run.info.start_time == clock.now_s * 1000
    assert run.data.params == {
        "train.max_epochs": "50",
        "optim.learning_rate": "0.0001",
        "retrieval.k": "None",
    }
    assert run.data.tags["ragsearch.varied.optim.learning_rate"] == "0.0001"


def test_metrics_wait_until_they_are_worth_a_call(search, clock):
    runs = callback(search, clock)
    trial = start(runs)

    for epoch in range(1, 50):
        report(runs, trial, epoch)
    before = runs_of(search)["0"].data.metrics
    report(runs, trial, 50)

    assert before == {}
    assert [step for step, _ in history(search, runs_of(search)["0"], "val/em")] == [
        *range(1, 51)
    ]


def test_metrics_wait_five_seconds_at_most_and_keep_their_own_time(search, clock):
    runs = callback(search, clock)
    measured_s = clock()
    trial = start(runs)
    report(runs, trial, 1)

    runs.on_step_end(1, [])
    early = runs_of(search)["0"].data.metrics
    clock.sleep(6)
    runs.on_step_end(2, [])

    assert early == {}
    points = MlflowClient(search.uri).get_metric_history(
        runs_of(search)["0"].info.run_id, "val/em"
    )
    assert [(point.step, point.timestamp) for point in points] == [(1, 1000 * int(measured_s))]
    assert set(runs_of(search)["0"].data.metrics) == {"val/em", "train/loss"}


@pytest.mark.parametrize(
    ("status", "reason", "word"),
    [
        ("finished", None, "FINISHED"),
        ("stopped_early", None, "KILLED"),
        ("interrupted", None, "KILLED"),
        ("failed", "its process died", "FAILED"),
        ("diverged", "the training loss is nan", "FAILED"),
        ("infeasible", "out of memory", "FAILED"),
    ],
)
def test_a_run_ends_as_its_trial_did(search, clock, status, reason, word):
    runs = callback(search, clock, lambda *_, **__: (status, reason))
    trial = start(runs)
    report(runs, trial, 2)

    clock.sleep(9)
    runs.log_trial_end(trial)

    run = runs_of(search)["0"]
    assert (run.data.tags["ragsearch.status"], run.info.status) == (status, word)
    assert run.data.tags.get("ragsearch.reason") == reason
    assert run.info.end_time == clock.now_s * 1000
    assert history(search, run, "val/em") == [(2, 0.02)]


def test_an_epoch_that_a_retried_trial_reports_again_is_written_once(search, clock):
    runs = callback(search, clock)
    trial = start(runs)

    for epoch in (1, 2, 2, 3):
        clock.now_s += 1
        report(runs, trial, epoch)
    runs.log_trial_end(trial)

    written = history(search, runs_of(search)["0"], "val/em")
    assert written == [(1, 0.01), (2, 0.02), (3, 0.03)]


def test_a_report_of_how_a_trial_ended_is_no_validation(search, clock):
    runs = callback(search, clock)
    trial = start(runs)

    runs.log_trial_result(1, trial, {"epoch": 0, "val/em": float("nan"), "timestamp": 7})
    runs.log_trial_end(trial)

    assert runs_of(search)["0"].data.metrics == {}


def test_a_trial_that_failed_before_it_reported_is_failed(search, clock):
    runs = callback(search, clock)

    runs.log_trial_end(FakeTrial({"trial": 0}, status="ERROR"))

    assert runs_of(search)["0"].info.status == "FAILED"


def test_the_trace_of_a_profiled_trial_is_an_artifact_of_its_run(search, clock, tmp_path):
    runs = callback(search, clock)
    profiled, plain = start(runs, 0), start(runs, 1)
    profiled.path, plain.path = str(tmp_path / "profiled"), str(tmp_path / "plain")
    (tmp_path / "profiled").mkdir()
    (tmp_path / "profiled" / "trace.json.gz").write_bytes(b"trace")

    for trial in (profiled, plain):
        runs.log_trial_end(trial)

    found = runs_of(search)
    kept = [
        [
            file.path
            for file in MlflowClient(search.uri).list_artifacts(found[str(number)].info.run_id)
        ]
        for number in (0, 1)
    ]
    assert kept == [["trace.json.gz"], []]
    assert {run.info.status for run in found.values()} == {"KILLED"}


def test_an_unreachable_mlflow_costs_no_metric_and_no_trial(search, clock, caplog):
    runs = callback(search, clock)
    mlflow, runs._writer.client = runs._writer.client, Broken()
    trial = start(runs)
    report(runs, trial, 1)
    clock.sleep(6)
    runs.on_step_end(1, [])
    runs.log_trial_end(trial)

    runs._writer.client = mlflow
    clock.sleep(6)
    runs.on_step_end(2, [])

    assert "does not take metrics, will retry: no route to MLflow" in caplog.text
    run = runs_of(search)["0"]
    assert history(search, run, "val/em") == [(1, 0.01)]
    assert run.info.status == "KILLED"


class Slow:
    """MLflow that answers when it is told to."""

    def __init__(self, uri: str) -> None:
        self._client, self.may_answer = MlflowClient(uri), Event()

    def __getattr__(self, name):
        self.may_answer.wait()
        return getattr(self._client, name)


def test_trials_do_not_wait_for_a_slow_mlflow(search):
    runs = search.trial_runs(resolve, how_it_ended)
    runs._writer = InProcess(slow := Slow(search.uri))

    trial = start(runs)
    for epoch in range(1, N_EPOCHS + 1):
        report(runs, trial, epoch)
    runs.log_trial_end(trial)
    before = runs_of(search)
    slow.may_answer.set()
    n_lost = runs.finish()

    assert before == {}
    assert n_lost == 0
    run = runs_of(search)["0"]
    assert run.info.status == "FINISHED"
    assert len(history(search, run, "val/em")) == N_EPOCHS


def test_a_trial_that_is_told_whole_takes_four_calls(search, clock):
    runs = callback(search, clock)
    calls = count_calls(runs)
    trial = start(runs)
    for epoch in (1, 2):
        report(runs, trial, epoch)

    runs.log_trial_end(trial)

    assert calls == ["create_run", "log_batch", "log_batch", "set_terminated"]
    assert runs._children == {}


def test_what_is_lost_in_the_end_is_said(search, clock, caplog):
    runs = callback(search, clock)
    runs._writer.client = Broken()
    report(runs, start(runs, 4), 1)

    n_lost = runs.finish()

    assert n_lost == 2
    assert "MLflow did not take 2 metrics of trials 4" in caplog.text


def known(number: int, *epochs: int, status: str | None = None) -> Known:
    """What the record has of a trial that `report` reported."""
    metrics = [{"epoch": n, "val/em": n / 100, "train/loss": 1.0} for n in epochs]
    times = [Clock.now_s for _ in epochs]
    return Known(number, {}, list(zip(metrics, times, strict=True)), status, None)


def test_a_trial_that_goes_on_has_the_run_it_had_and_no_metric_twice(search, clock):
    killed = callback(search, clock)
    trial = start(killed)
    report(killed, trial, 1)
    killed.finish()
    (before,) = runs_of(search).values()
    report(killed, trial, 2)  # still waiting when the process is killed

    again = callback(search, clock)
    again.take_up([known(0, 1, 2)])
    again.log_trial_start(trial)
    report(again, trial, 2)
    report(again, trial, N_EPOCHS)
    again.log_trial_end(trial)

    (run,) = runs_of(search).values()
    assert run.info.run_id == before.info.run_id
    assert run.info.status == "FINISHED"
    for key in ("val/em", "train/loss"):
        assert [step for step, _ in history(search, run, key)] == [1, 2, N_EPOCHS]


def test_a_trial_whose_run_was_closed_is_running_again(search, clock):
    stopped = callback(search, clock)
    trial = start(stopped)
    search.close("interrupted")
    closed = runs_of(search)["0"].info.status

    again = callback(search, clock)
    again.take_up([known(0)])

    run = runs_of(search)["0"]
    assert closed == "KILLED"
    assert (run.info.status, run.data.tags["ragsearch.status"]) == ("RUNNING", "running")
    again.log_trial_start(trial)
    assert len(runs_of(search)) == 1


def test_a_search_that_goes_on_has_the_run_it_had(uri):
    identity = uuid4().hex
    first = SearchRun.open(uri, "kb", "1", identity=identity, params={"n": 8}, tags={})
    first.close("interrupted")

    again = SearchRun.open(uri, "kb", "1", identity=identity, params={"n": 12}, tags={})

    run = MlflowClient(uri).get_run(first.run_id)
    assert again.run_id == first.run_id
    assert run.info.status == "RUNNING"
    assert run.data.tags["ragsearch.status"] == "running"
    assert run.data.params == {"n": "8"}
    assert run.data.tags["ragsearch.changed.n"] == "12"


def test_what_a_killed_process_did_not_tell_is_told_later(search, clock):
    killed = callback(search, clock)
    start(killed, 0)  # trial 1 never came to MLflow, trial 2 was told whole
    trial = start(killed, 2)
    report(killed, trial, N_EPOCHS)
    killed.log_trial_end(trial)

    again = callback(search, clock)
    calls = count_calls(again)
    finished = [known(number, 1, 2, status="finished") for number in (0, 1)]
    again.take_up([*finished, known(2, N_EPOCHS, status="finished")])

    found = runs_of(search)
    assert {number: run.info.status for number, run in found.items()} == dict.fromkeys(
        "012", "FINISHED"
    )
    assert history(search, found["1"], "val/em") == [(1, 0.01), (2, 0.02)]
    assert calls.count("set_terminated") == 2


@pytest.fixture(scope="module")
def local_ray() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="rs", dir="/tmp")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield Path(folder)
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def toy_trial(config: dict[str, object]) -> None:
    for epoch in range(1, N_EPOCHS + 1):
        if config["trial"] == 7 and epoch == 3:
            raise RuntimeError("out of luck")
        metrics = {"val/em": config["x"] * epoch, "val/f1": 0.5}
        tune.report({"epoch": epoch, "is_last": epoch == N_EPOCHS, **metrics})


class StopTrialFive(tune.Stopper):
    """Stops trial 5 at its fourth epoch, as a scheduler would."""

    def __call__(self, trial_id, result):  # noqa: ARG002 - Tune's signature
        """Tell whether to stop a trial."""
        return result["config"]["trial"] == 5 and result["epoch"] == 4

    def stop_all(self):
        """Tell whether to stop the search."""
        return False


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_every_result_of_a_real_search_is_in_mlflow_once(search, tmp_path):
    runs = search.trial_runs(resolve, how_it_ended)
    tune.Tuner(
        tune.with_resources(toy_trial, {"cpu": 0.5}),
        param_space={"trial": tune.grid_search([*range(N_TRIALS)]), "x": 0.01},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            callbacks=[runs], stop=StopTrialFive(), storage_path=str(tmp_path), verbose=0
        ),
    ).fit()
    search.close("finished")

    found = runs_of(search)
    assert sorted(map(int, found)) == [*range(N_TRIALS)]
    assert found["5"].info.status == "KILLED"
    assert found["5"].data.tags["ragsearch.status"] == "stopped_early"
    assert len(history(search, found["5"], "val/em")) == 4
    assert found["7"].info.status == "FAILED"
    assert len(history(search, found["7"], "val/em")) == 2
    for number in sorted(set(found) - {"5", "7"}):
        assert found[number].info.status == "FINISHED"
        assert history(search, found[number], "val/em") == [
            (epoch, pytest.approx(0.01 * epoch)) for epoch in range(1, N_EPOCHS + 1)
        ]


def count_calls(runs: TrialRuns) -> list[str]:
    """Hand the callback a client that notes each call and passes it on."""
    client, calls = MlflowClient(runs._uri), []

    class Noted:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(client, name)

    runs._writer = InProcess(Noted())
    return calls
