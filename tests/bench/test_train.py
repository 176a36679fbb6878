"""`ragsearch bench train` as a user runs it: real models, stock Transformers, Ray."""

import json

import pytest

from ragsearch.bench.processes import BenchError
from ragsearch.bench.train import check_first, measure
from ragsearch.bench.train_plan import Design, Device, Size, TrainPlan
from ragsearch.bench.trainees import First
from ragsearch.errors import BadInputError
from tests.bench.test_bench import folder, wait_until_gone
from tests.command import try_ragsearch

__all__ = ["folder"]


@pytest.mark.ray
@pytest.mark.long
def test_three_designs_compute_the_same_and_nothing_is_left(tmp_path, folder):
    done = try_ragsearch(
        "bench", "train", "--model", "tiny", "--device", "cpu", "--steps", 2, "--batch", 2,
        "--n-docs", 3, "--passages", 300, "--prefetch", 1, "--json",
        cwd=tmp_path, TMPDIR=str(folder),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    wait_until_gone(folder)
    assert list(folder.iterdir()) == []
    assert "Warning" not in done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"rows"}
    assert [(row["model"], row["device"], row["design"]) for row in told["rows"]] == [
        ("tiny", "cpu", design) for design in ("bare", "original", "ragsearch")
    ]
    for row in told["rows"]:
        assert set(row) == {
            "model", "device", "design", "step_s", "tokens_per_s", "retrieval_share",
            "peak_bytes", "val_s_per_example",
        }  # fmt: skip
        assert row["step_s"] > 0
        assert row["val_s_per_example"] > 0
        assert row["peak_bytes"] > 100e6
        assert (row["retrieval_share"] == 0) == (row["design"] == "bare")
        assert 0 <= row["retrieval_share"] < 1
    tokens = [row["tokens_per_s"] * row["step_s"] for row in told["rows"]]
    assert tokens == pytest.approx([tokens[0]] * 3)
    assert 2 * 3 * 130 < tokens[0] < 2 * 3 * 200
    assert "tiny, cpu: question encoder alone:" in done.stderr


def test_a_model_or_device_that_is_none_is_refused(tmp_path):
    done = try_ragsearch("bench", "train", "--model", "huge", cwd=tmp_path)

    assert done.returncode == 2
    assert "--model: 'huge' is not one of tiny, base" in done.stderr


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(BadInputError, match="--device: cuda is asked for, and torch finds no"):
        measure(TrainPlan(sizes=(Size.TINY,), devices=(Device.CUDA,)), lambda _: None)


@pytest.mark.parametrize("loss", [3.001, float("nan")])
def test_another_loss_is_an_error(loss):
    found, expected = [["p4", "p2"], ["p1", "p7"]], First(3.0, [["p4", "p2"], ["p1", "p7"]])

    check_first(Design.ORIGINAL, First(3.0002, found), expected, 1e-4)
    with pytest.raises(
        BenchError, match=r"design original: the loss of the first batch is .*3\.0"
    ):
        check_first(Design.ORIGINAL, First(loss, found), expected, 1e-4)


def test_other_passages_are_an_error():
    expected = First(3.0, [["p4", "p2"], ["p1", "p7"]])

    with pytest.raises(
        BenchError, match="design ragsearch: 1 of 2 questions find other passages"
    ):
        check_first(Design.RAGSEARCH, First(3.0, [["p4", "p2"], ["p1", "p8"]]), expected, 1e-4)
