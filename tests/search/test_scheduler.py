from types import SimpleNamespace

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ragsearch.search.scheduler import make_scheduler


def _trial(number):
    return SimpleNamespace(trial_id=f"t{number}", config={"trial": number}, status="RUNNING")


def _decisions(scheduler, scores):
    """Let trials of these scores reach the first rung, one after the other."""
    decisions = []
    for number, score in enumerate(scores):
        trial = _trial(number)
        scheduler.on_trial_add(None, trial)
        result = {"epoch": 1, "training_iteration": 1, "val/em": score}
        decisions.append(scheduler.on_trial_result(None, trial, result))
    return decisions


def test_a_trial_behind_at_a_rung_is_stopped(space_of):
    scheduler = make_scheduler(space_of(search={"scheduler": {"min": 1, "eta": 2}}))

    decisions = _decisions(scheduler, [0.5, 0.6, 0.7, 0.1])

    assert decisions[3] == TrialScheduler.STOP
    assert decisions[2] == TrialScheduler.CONTINUE


def test_the_baseline_is_never_stopped_early(space_of):
    scheduler = make_scheduler(space_of(search={"scheduler": {"min": 1, "eta": 2}}))
    baseline, others = _trial(0), [_trial(number) for number in (1, 2, 3)]
    for trial in (*others, baseline):
        scheduler.on_trial_add(None, trial)
    for trial, score in zip(others, (0.5, 0.6, 0.7), strict=True):
        scheduler.on_trial_result(
            None, trial, {"epoch": 1, "training_iteration": 1, "val/em": score}
        )

    decision = scheduler.on_trial_result(
        None, baseline, {"epoch": 1, "training_iteration": 1, "val/em": 0.0}
    )

    assert decision == TrialScheduler.CONTINUE


def test_without_a_scheduler_every_trial_runs_to_its_end(space_of):
    scheduler = make_scheduler(space_of(search={"scheduler": {"name": "none"}}))

    assert isinstance(scheduler, FIFOScheduler)


BAD = {"epoch": 1, "training_iteration": 1, "val/em": 1.0, "verdict": "infeasible"}


def test_the_scores_of_a_bad_trial_do_not_count_at_a_rung(space_of):
    scheduler = make_scheduler(space_of(search={"scheduler": {"min": 1, "eta": 2}}))
    baseline, other = _trial(0), _trial(1)
    for trial in (baseline, other):
        scheduler.on_trial_add(None, trial)

    decision = scheduler.on_trial_result(None, baseline, BAD)
    scheduler.on_trial_complete(None, other, BAD)

    assert decision == TrialScheduler.CONTINUE
    assert _decisions(scheduler, [0.1]) == [TrialScheduler.CONTINUE]
