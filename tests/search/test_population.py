"""Population based training over real trials, as the command runs it."""

import json
import re
from types import SimpleNamespace

import pytest
import yaml
from ray import tune
from ray.tune.experiment import Trial

from ragsearch.search.record import SearchRecord, Status
from ragsearch.spec import Log, Uniform
from tests.command import try_ragsearch
from tests.search.conftest import space_content
from tests.search.interrupted import cut_short, kill_driver, runs_of, search_of

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pbt", "pb2"])
def test_a_change_does_not_depend_on_who_reported_first(space_of, name):
    from ragsearch.search.population import _drawn_from
    from ragsearch.search.scheduler import make_scheduler

    spec = space_of(search={"scheduler": {"name": name, "mutable": [RATE]}})

    def changed(label, order):
        """Return the rates that two trials get, after each of three epochs."""
        scheduler, rates = make_scheduler(spec), []
        trials = [
            Trial("t", stub=True, trial_id=f"{label}{number}", config={
                "trial": number, RATE: 10.0 ** -(1 + number / 2)
            }) for number in range(5)
        ]  # fmt: skip
        for trial in trials:
            trial.placement_group_factory = tune.PlacementGroupFactory([{"CPU": 1}])
            scheduler.on_trial_add(None, trial)
        for epoch in range(1, 4):
            for number in order[epoch % 2]:
                trial = trials[number]
                score = epoch / (1 + abs(number - 2)) + number / 7
                result = {"epoch": epoch, "val/em": score}
                state = scheduler._trial_state[trial]
                scheduler._save_trial_state(state, epoch, result, trial)
            for worse in (0, 4):
                with _drawn_from(scheduler.seed_of(worse, epoch)):
                    config, _ = scheduler._get_new_config(trials[worse], trials[2])
                trials[worse].set_config(config)
                rates.append(config[RATE])
        return rates

    one = changed("a", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])

    assert changed("b", [[3, 1, 4, 2, 0], [2, 0, 1, 4, 3]]) == one
    assert len(set(one)) > 3


def content_of(tiny, n_epochs, **sections):
    """Return a search of four trials, of which the baseline learns nothing."""
    return space_content(
        tiny,
        trial={
            "optim": {"learning_rate": 1e-6, "schedule": "constant"},
            "train": {"max_epochs": n_epochs},
            "decode": {"max_length": 2},
        },
        objectives=[{"metric": "val/nll", "goal": "min"}],
        space={RATE: {"log": [1e-6, 1e-2]}},
        search={"scheduler": {"name": "pbt", "mutable": [RATE]}},
        budget={"trials": 4},
        **sections,
    )


def rates_of(record):
    """Return the learning rates of each trial, an epoch each."""
    return {
        number: [epoch[f"schedule/{RATE}"] for epoch in trial.epochs]
        for number, trial in record.trials.items()
    }


@pytest.mark.ray
@pytest.mark.long
def test_trials_go_on_from_others_with_their_weights_and_changed_values(tiny, tmp_path):
    content = content_of(tiny, n_epochs=3)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))

    done = try_ragsearch("run", "space.yaml", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "goes on from trial" in done.stderr
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    record = SearchRecord.load(folder)
    rates = rates_of(record)
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


@pytest.mark.ray
@pytest.mark.long
def test_a_population_that_is_killed_goes_on_with_its_changed_values(tiny, tmp_path):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content_of(tiny, n_epochs=4)))

    kills = [
        cut_short(tmp_path, "space.yaml", at="goes on from trial", by=kill_driver),
        cut_short(tmp_path, "--resume", at="epoch 3/4", by=kill_driver),
    ]
    before = search_of(tmp_path)
    last = try_ragsearch("run", "--resume", cwd=tmp_path)

    assert last.returncode == 0, last.stderr
    said = "".join(kill.said for kill in kills) + last.stderr
    done = re.findall(r"trial \d epoch \d", said)
    assert len(done) == len(set(done)), said  # no epoch is done again
    assert "goes on from trial" in kills[1].said + last.stderr
    record = search_of(tmp_path)
    assert set(rates_of(record)[0]) == {1e-6}
    for number, trial in record.trials.items():
        epochs = [epoch["epoch"] for epoch in trial.epochs]
        assert trial.status is Status.FINISHED
        assert epochs == sorted(set(epochs))
        assert epochs[-1] == 4
        assert trial.epochs[: len(before.trials[number].epochs)] == before.trials[number].epochs
        saved = json.loads((record.folder / trial.checkpoint / "trial.json").read_text())
        assert saved["trial"]["optim"]["learning_rate"] == trial.params[RATE]
        assert trial.params[RATE] == record.best_epoch(trial)[f"schedule/{RATE}"]
        (_, status, _, metrics) = runs_of(tmp_path, record)[f"trial {number}"]
        assert status == "finished"
        assert [step for step, _ in metrics["val/nll"]] == epochs
    assert len(list(record.folder.glob("tune*/*/checkpoint_*"))) <= 2 * len(record.trials)
