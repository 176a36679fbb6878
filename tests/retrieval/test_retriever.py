import numpy as np
import pytest

from ragsearch.errors import RagsearchError
from ragsearch.index.hits import Knobs
from ragsearch.index.open import open_index
from ragsearch.retrieval.retriever import (
    BadQueriesError,
    InProcessRetriever,
    Retriever,
    check_ids,
    check_knobs,
    check_queries,
)


@pytest.fixture(scope="module")
def retriever(exact) -> Retriever:
    return InProcessRetriever(open_index(exact.folder), who="trial 7")


def test_in_process_retriever_says_which_index_it_has(retriever, exact):
    assert (retriever.fingerprint, retriever.n_passages, retriever.dimension) == (
        exact.fingerprint,
        40,
        32,
    )


def test_in_process_hits_are_the_largest_inner_products(retriever, queries):
    everything = retriever.retrieve(queries, 40)
    hits = retriever.retrieve(queries, 5)

    np.testing.assert_array_equal(hits.ids, everything.ids[:, :5])
    products = np.einsum("qd,qkd->qk", queries, everything.vectors)
    np.testing.assert_allclose(everything.scores, products, atol=0.01)
    assert (np.diff(everything.scores, axis=1) <= 0).all()


def test_passages_come_in_the_order_asked(retriever):
    first, second, again = retriever.passages(np.array([7, 3, 7]))

    assert first == again
    assert first.id != second.id


def test_queries_of_another_width_are_refused_by_the_name_of_the_asker(retriever):
    with pytest.raises(BadQueriesError, match=r"trial 7: queries of shape \(2, 5\) .* 32 dim"):
        retriever.retrieve(np.zeros((2, 5), np.float32), 3)


def test_one_query_without_its_axis_is_refused(retriever):
    with pytest.raises(BadQueriesError, match=r"queries of shape \(32,\)"):
        retriever.retrieve(np.zeros(32, np.float32), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_queries_of_a_diverged_encoder_are_refused(value, queries):
    broken = queries.copy()
    broken[[2, 5], 1] = value

    with pytest.raises(BadQueriesError, match="trial 3: 2 of 8 query vectors are NaN"):
        check_queries(broken, 32, "trial 3")


def test_without_a_name_the_message_begins_with_what_was_wrong():
    with pytest.raises(BadQueriesError, match=r"^queries of shape"):
        check_queries(np.zeros((1, 2), np.float32), 3, "")


@pytest.mark.parametrize("missing", [-1, 40])
def test_a_missing_hit_is_not_mapped_to_a_passage(retriever, missing):
    with pytest.raises(BadQueriesError, match=f"trial 7: no passage has id {missing}"):
        retriever.passages(np.array([3, missing]))


def test_no_ids_are_no_mistake():
    check_ids(np.zeros(0, np.int64), 40, "")


def test_bad_queries_end_the_program_as_bad_input_does():
    assert issubclass(BadQueriesError, RagsearchError)
    assert BadQueriesError.exit_code == 2


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (Knobs(ef_search=9), "trial 7: ef_search is 9 but the index is Flat, which has no use"),
        (
            Knobs(nprobe=9),
            "trial 7: nprobe is 9 but the index is Flat, which has no use for it",
        ),
        (Knobs(nprobe=0), "trial 7: nprobe is 0; give at least 1, or leave it out"),
    ],
)
def test_a_knob_the_index_has_no_use_for_is_refused(retriever, queries, knobs, message):
    with pytest.raises(BadQueriesError, match=message):
        retriever.retrieve(queries, 3, knobs)


def test_knobs_without_an_asker_are_refused_too():
    with pytest.raises(
        BadQueriesError, match=r"^nprobe is 9 but the index is IVF8,Flat, which"
    ):
        check_knobs(Knobs(nprobe=9), "IVF8,Flat", "")
