"""The check that designs find the same passages."""

import numpy as np
import pytest

from ragsearch.bench.designs import Name
from ragsearch.bench.processes import BenchError
from ragsearch.bench.same import check_same
from ragsearch.index.hits import Hits


def hits(ids: list[list[int]], scores: list[list[float]]) -> Hits:
    shape = (len(ids), len(ids[0]), 0)
    return Hits(np.array(ids), np.array(scores, np.float32), np.empty(shape, np.float32))


REFERENCE = hits([[4, 7], [1, 2]], [[0.9, 0.5], [0.8, 0.3]])


@pytest.mark.parametrize("name", Name)
def test_equal_answers_of_several_clients_pass(name):
    check_same(name, REFERENCE, [hits([[4, 7]], [[0.9, 0.5]]), hits([[1, 2]], [[0.8, 0.3]])])


@pytest.mark.parametrize("name", Name)
def test_another_passage_is_an_error(name):
    odd = hits([[4, 7], [1, 9]], [[0.9, 0.5], [0.8, 0.2]])

    with pytest.raises(
        BenchError, match=rf"design {name}: 1 of 2 .* query 1 finds \[1, 9\] inst"
    ):
        check_same(name, REFERENCE, [odd])


def test_a_tie_passes_for_stock_faiss_and_never_for_the_pool():
    tied = hits([[4, 9], [2, 1]], [[0.9, 0.50003], [0.8, 0.3]])

    check_same(Name.TORCH_DISTRIBUTED, REFERENCE, [tied])
    with pytest.raises(BenchError, match="design pool: 2 of 2 queries find other passages"):
        check_same(Name.POOL, REFERENCE, [tied])
