"""Validation on some questions: which, and how epochs are compared; and no training at all."""

from collections import Counter
from pathlib import Path

import pytest

from ragsearch.data.questions import Question
from ragsearch.spec import ObjectiveSection
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.rungs import kind_of, stratified
from tests.training.conftest import FakeRetriever, MakeTrial

NLL = ObjectiveSection(metric="val/nll", goal="min")


def asked(number: int, question: str, answer: str) -> Question:
    return Question(str(number), question, (answer,), ())


def many() -> list[Question]:
    kinds = [("How long is it?", "12 km"), ("Which city?", "Babex"), ("Which?", "so and so on")]
    return [asked(n, *kinds[0 if n % 10 < 6 else 1 if n % 10 < 9 else 2]) for n in range(200)]


def fitted(
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    questions: tuple[list[Question], list[Question]],
    n: int | None,
    **keys: object,
) -> list[EpochReport]:
    reports: list[EpochReport] = []
    trial = make_trial(decode__max_length=3, optim__effective_batch=8, **keys)
    fit_trial(
        trial, questions, retriever, reports.append, objective=NLL, seed=5, rung_examples=n
    )
    return reports


@pytest.mark.parametrize("n", [10, 33, 100])
def test_a_part_has_every_kind_in_its_proportion_to_within_one(n: int) -> None:
    questions = many()

    part = stratified(questions, n, seed=1)

    assert len({question.id for question in part}) == n
    taken = Counter(map(kind_of, part))
    for kind, count in Counter(map(kind_of, questions)).items():
        assert abs(taken[kind] - n * count / len(questions)) <= 1
    assert [int(question.id) for question in part] == sorted(int(q.id) for q in part)


def test_a_part_is_the_same_for_equal_seeds_and_all_where_there_are_no_more() -> None:
    questions = many()

    assert stratified(questions, 20, seed=1) == stratified(questions, 20, seed=1)
    assert stratified(questions, 20, seed=1) != stratified(questions, 20, seed=2)
    assert stratified(questions, 200, seed=1) == stratified(questions, 999, seed=1) == questions


def test_the_last_epoch_is_validated_on_all_and_compared_on_the_same_as_the_others(
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
    val: list[Question],
) -> None:
    keys = {"train__max_epochs": 2, "optim__learning_rate": 1e-2}
    part = stratified(val, 3, seed=5)

    first, last = fitted(make_trial, retriever, (train, val), 3, **keys)

    on_part = fitted(make_trial, retriever, (train, part), None, **keys)
    on_all = fitted(make_trial, retriever, (train, val), None, **keys)
    assert (first.metrics["val/n"], last.metrics["val/n"]) == (3, 8)
    assert "rung/val/nll" not in first.metrics
    assert first.compared == first.metrics["val/nll"]
    assert last.metrics["val/nll"] == pytest.approx(on_all[1].metrics["val/nll"], rel=1e-5)
    assert last.metrics["rung/val/nll"] == last.compared
    assert [first.compared, last.compared] == pytest.approx(
        [report.metrics["val/nll"] for report in on_part], rel=1e-5
    )
    assert last.is_best == (last.compared < first.compared)
    assert last.metrics["val/hit_overlap"] == pytest.approx(
        on_all[1].metrics["val/hit_overlap"]
    )


def test_without_epochs_a_model_is_validated_as_it_is(
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
    val: list[Question],
) -> None:
    (report,) = fitted(make_trial, retriever, (train, val), None, train__max_epochs=0)

    assert (report.epoch, report.is_best, report.is_last) == (0, True, True)
    assert report.metrics["val/n"] == 8
    assert not any(name.startswith(("train/", "time/")) for name in report.metrics)


def test_a_trial_that_goes_on_compares_the_same_questions_with_its_best_so_far(
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
    val: list[Question],
    tmp_path: Path,
) -> None:
    whole: list[EpochReport] = []
    again: list[EpochReport] = []
    trial = make_trial(
        decode__max_length=3, optim__effective_batch=8, train__max_epochs=3,
        optim__learning_rate=0.5,
    )  # fmt: skip

    def keep(report: EpochReport) -> None:
        whole.append(report)
        report.save_state(tmp_path / str(report.epoch))

    for reports, resume in ((keep, None), (again.append, tmp_path / "1")):
        fit_trial(
            trial, (train, val), retriever, reports, objective=NLL, seed=5, rung_examples=3,
            resume=resume,
        )  # fmt: skip

    assert [report.epoch for report in again] == [2, 3]
    for report, before in zip(again, whole[1:], strict=True):
        assert report.compared == before.compared
        assert report.is_best == before.is_best
        assert report.metrics["val/n"] == before.metrics["val/n"]
