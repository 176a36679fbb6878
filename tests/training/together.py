"""One worker of a trial, as the tests start it: a job, and what came of it.

Run as `python -m tests.training.together JOB PLACE RANK N`; the job is JSON. Prints JSON: what
each epoch reported, a fingerprint of the weights, or what `Workers` made of numbers.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

from ragsearch.data.questions import read_questions
from ragsearch.index.open import open_index
from ragsearch.retrieval.distributed import DistributedRetriever, gloo_among_all
from ragsearch.retrieval.retriever import InProcessRetriever, Retriever
from ragsearch.spec import ObjectiveSection, TrialSection
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.workers import Workers, working_together


def wait_for_others(place: Path, rank: int, n: int) -> None:
    """Return when all have imported what they need, which takes seconds."""
    place.with_name(f"{place.name}-ready-{rank}").touch()
    while len(list(place.parent.glob(f"{place.name}-ready-*"))) < n:
        time.sleep(0.02)


def fitted(
    job: dict,
    workers: Workers,
    resume: Path | None = None,
    after: Callable[[EpochReport], None] = lambda _: None,
) -> dict[str, object]:
    """Return what a trial reports, and which weights it ends with.

    Args:
        job: The trial and its questions.
        workers: Who trains it.
        resume: The state to go on from.
        after: What to do after a report.
    """
    trial = TrialSection.model_validate(job["trial"])
    retriever: Retriever = InProcessRetriever(open_index(Path(job["index"])))
    if trial.retrieval.backend == "torch_distributed":
        retriever = DistributedRetriever(retriever, gloo_among_all())
    told: dict[str, object] = {"epochs": []}

    def report(state: EpochReport) -> None:
        # Transformers itself saves in the first process only
        weights = state.save.__self__.network.state_dict().values()
        told["epochs"].append(state.metrics)
        digest = sha256(b"".join(tensor.numpy().tobytes() for tensor in weights))
        told["weights"] = digest.hexdigest()
        after(state)

    questions = (
        read_questions(Path(job["train"]))[: job["n_train"]],
        read_questions(Path(job["val"]))[: job["n_val"]],
    )
    objective = ObjectiveSection(metric="val/nll", goal="min")
    fit_trial(
        trial,
        questions,
        retriever,
        report,
        objective=objective,
        seed=3,
        workers=workers,
        resume=resume,
    )
    return told


def resumed(job: dict, workers: Workers) -> dict[str, object]:
    """Return what a whole trial tells, and what one does that goes on after its first epoch."""
    folder = Path(job["state"])

    def interrupt(state: EpochReport) -> None:
        if workers.rank == 0:
            state.save_state(folder)
        raise InterruptedError

    whole = fitted(job, workers)
    with suppress(InterruptedError):
        fitted(job, workers, after=interrupt)
    workers.total(0.0)  # the state is there
    return {"whole": whole, "rest": fitted(job, workers, resume=folder)}


def summed(workers: Workers) -> dict[str, object]:
    """Return sums over workers of numbers and gradients that differ between them."""
    rank = workers.rank
    both, one, none, frozen = (nn.Parameter(torch.ones(3)) for _ in range(4))
    frozen.requires_grad = False
    both.grad = torch.full((3,), 1.0 + rank)
    if rank == 1:
        one.grad = torch.full((3,), 5.0)
    workers.sum_gradients([both, one, none, frozen])
    gradients = [each.grad for each in (both, one, none, frozen)]
    return {
        "total": workers.total(rank + 1.0, 0.5),
        "share": workers.share(list(range(5))),
        "gathered": workers.gather(workers.share(list(range(5)))),
        "gradients": [None if each is None else each.tolist() for each in gradients],
    }


def main() -> None:
    job, place, rank, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    wait_for_others(Path(place), rank, n)
    with working_together(f"file://{place}", rank, n) as workers:
        told = summed(workers) if job == "sums" else trained(json.loads(job), workers)
    sys.stdout.write(json.dumps(told))


def trained(job: dict, workers: Workers) -> dict[str, object]:
    return resumed(job, workers) if "state" in job else fitted(job, workers)


if __name__ == "__main__":
    main()
