"""Population based training over real trials, as the command runs it."""

import json
from types import SimpleNamespace

import pytest
import yaml
from ray.tune.experiment import Trial

from ragsearch.search.record import SearchRecord
from ragsearch.spec import Log, Uniform
from tests.command import try_ragsearch
from tests.search.conftest import space_content

RATE = "optim.learning_rate"


def test_changed_values_stay_in_their_domains():
    from ragsearch.search.population import kept_within

    domains = {RATE: Log(1e-4, 1e-1), "regularisation.dropout": Uniform(0.0, 0.2)}
    config = {RATE: 0.12, "regularisation.dropout": -0.1, "retrieval.n_docs": 3}

    kept = kept_within(domains, config)

    assert kept == {RATE: 0.1, "regularisation.dropout": 0.0, "retrieval.n_docs": 3}


def test_a_population_goes_on_where_the_trial_it_waits_for_has_ended(space_of):
    from ragsearch.search.scheduler import make_scheduler

    scheduler = make_scheduler(
        space_of(search={"scheduler": {"name": "pbt", "mutable": [RATE]}})
    )
    trials = [Trial("t", stub=True, trial_id=name) for name in ("ended", "a", "b")]
    trials[0].set_status(Trial.ERROR)
    for trial in trials[1:]:
        trial.set_status(Trial.PAUSED)
        scheduler._trial_state[trial] = SimpleNamespace(last_train_time=1)

    chosen = scheduler.choose_trial_to_run(SimpleNamespace(get_trials=lambda: trials))

    assert chosen is trials[1]


@pytest.mark.ray
@pytest.mark.slow
def test_trials_go_on_from_others_with_their_weights_and_changed_values(tiny, tmp_path):
    content = space_content(
        tiny,
        trial={
            "optim": {"learning_rate": 1e-6, "schedule": "constant"},
            "train": {"max_epochs": 3},
            "decode": {"max_length": 2},
        },
        objectives=[{"metric": "val/nll", "goal": "min"}],
        space={RATE: {"log": [1e-6, 1e-2]}},
        search={"scheduler": {"name": "pbt", "mutable": [RATE]}},
        budget={"trials": 4},
    )
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))

    done = try_ragsearch("run", "space.yaml", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "goes on from trial" in done.stderr
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    record = SearchRecord.load(folder)
    rates = {
        number: [epoch[f"schedule/{RATE}"] for epoch in trial.epochs]
        for number, trial in record.trials.items()
    }
    assert set(rates[0]) == {1e-6}
    assert any(len(set(of_trial)) > 1 for of_trial in rates.values())
    for trial in record.trials.values():
        epochs = [epoch["epoch"] for epoch in trial.epochs]
        assert epochs == sorted(set(epochs))  # one that goes on from another may leave some out
        assert epochs[-1] == 3
        best = record.best_epoch(trial)
        assert len(list((folder / trial.checkpoint).parent.glob("checkpoint_*"))) <= 2
        assert trial.params[RATE] == best[f"schedule/{RATE}"]
        saved = json.loads((folder / trial.checkpoint / "trial.json").read_text())
        assert saved["trial"]["optim"]["learning_rate"] == trial.params[RATE]
