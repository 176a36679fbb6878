from dataclasses import dataclass

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ragsearch.search.scheduler import make_scheduler


@dataclass(eq=False)
class RunningTrial:
    """What schedulers read of a trial of Tune."""

    trial_id: str
    config: dict
    status: str = "RUNNING"


def _trial(number):
    return RunningTrial(f"t{number}", {"trial": number})


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


def test_the_bracket_of_a_trial_depends_on_seed_and_number_alone(space_of):
    settings = {"name": "asha", "min": 1, "eta": 2, "brackets": 2}
    spec = space_of(search={"scheduler": settings})

    def late_ones():
        scheduler = make_scheduler(spec)
        for number in range(20):
            scheduler.on_trial_add(None, _trial(number))
        late = scheduler._brackets[1]
        return [scheduler._trial_info[f"t{number}"] is late for number in range(20)]

    assert late_ones() == late_ones()
    assert 0 < sum(late_ones()) < 10  # the early bracket has more rungs, and so more trials


def _median(space_of):
    return make_scheduler(space_of(search={"scheduler": {"name": "median"}}))


def test_a_trial_below_the_median_of_three_others_is_stopped(space_of):
    decisions = _decisions(_median(space_of), [0.5, 0.6, 0.7, 0.1, 0.8])

    assert decisions == ["CONTINUE", "CONTINUE", "CONTINUE", "STOP", "CONTINUE"]


def test_the_median_rule_lets_the_baseline_through_and_bad_scores_out(space_of):
    scheduler = _median(space_of)
    for trial in map(_trial, range(1, 5)):
        scheduler.on_trial_add(None, trial)
        scheduler.on_trial_result(None, trial, BAD)  # else they would stop all the others

    assert _decisions(scheduler, [0.5, 0.4, 0.6, 0.6]) == ["CONTINUE"] * 4
    baseline = _trial(0)
    assert scheduler.on_trial_result(None, baseline, BAD | {"verdict": None}) == "CONTINUE"
    worst = {"epoch": 1, "training_iteration": 1, "val/em": 0.0}
    assert scheduler.on_trial_result(None, baseline, worst) == "CONTINUE"


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
