"""How long a question waits for its answer, asked alone.

Measured where a search asks for it (`val/latency_ms_p95`), on the machine as it is then: other
trials that run there make answers slower. Compare trials that ran as many at a time.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from ragsearch.data.questions import Question
from ragsearch.training.decode import generate_answers
from ragsearch.training.encoded import encode_contexts
from ragsearch.training.pipeline import Pipeline

N_QUESTIONS = 60  # of which p95 leaves three out; a BART-base on a GPU answers them in seconds


@torch.no_grad()
def latency_ms_p95(pipeline: Pipeline, questions: Sequence[Question]) -> float:
    """Return the milliseconds within which 95 in 100 questions are answered, one at a time.

    From the text of a question to the text of its answer: encoding, search, generation. The
    first one is asked twice, as it also warms up.

    Args:
        pipeline: In evaluation mode.
        questions: At least one; the first `N_QUESTIONS` are asked.
    """
    asked = questions[:N_QUESTIONS]
    times_s = [_answer_s(pipeline, question) for question in (asked[0], *asked)][1:]
    return 1000.0 * float(np.percentile(times_s, 95))


def _answer_s(pipeline: Pipeline, question: Question) -> float:
    started = time.perf_counter()
    texts = [question.question]
    found = pipeline.retrieve(texts, pipeline.model.trial.retrieval.n_docs)
    contexts = pipeline.read(texts, found)
    encoded = encode_contexts(pipeline.model, contexts)
    generate_answers(pipeline.model, contexts, found.doc_scores, encoded)
    return time.perf_counter() - started
