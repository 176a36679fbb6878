from pathlib import Path

import faiss
import pytest

from ragsearch.errors import BadInputError
from ragsearch.spec import load_spec
from ragsearch.spec.knobs import KNOBS, why_useless
from tests.spec.spaces import VALID, write_space

USEFUL = {
    "Flat": set(),
    "SQ8": set(),
    "PQ16": set(),
    "OPQ8_32,PQ8": set(),
    "HNSW32": {"ef_search"},
    "HNSW": {"ef_search"},
    "HNSW32_SQ8": {"ef_search"},
    "PCA16,HNSW16,Flat": {"ef_search"},
    "IVF256,PQ16": {"nprobe"},
    "IVF4(Flat),Flat": {"nprobe"},
    "IVF64_HNSW32,Flat": {"ef_search", "nprobe"},
    "IVF64(HNSW16),SQ8": {"ef_search", "nprobe"},
}


@pytest.mark.parametrize("factory", USEFUL)
def test_a_factory_string_tells_which_knobs_are_of_use(factory: str):
    useful = {knob for knob in KNOBS if why_useless(factory, knob, 2) is None}

    assert useful == USEFUL[factory]


@pytest.mark.parametrize("factory", USEFUL)
def test_faiss_agrees_on_which_knobs_are_of_use(factory: str):
    index = faiss.index_factory(32, factory, faiss.METRIC_INNER_PRODUCT)
    inner = getattr(faiss.downcast_index(index), "index", index)  # behind OPQ or PCA
    ivf = faiss.try_extract_index_ivf(index)
    graph = faiss.downcast_index(ivf.quantizer if ivf else inner)

    found = {"nprobe"} if ivf else set()
    found |= {"ef_search"} if isinstance(graph, faiss.IndexHNSW) else set()
    assert found == USEFUL[factory]


def test_more_cells_than_there_are_cannot_be_searched():
    assert why_useless("IVF256,Flat", "nprobe", 256) is None
    assert why_useless("IVF256,Flat", "nprobe", 257) == (
        "is IVF256,Flat, which has no 257 cells; lower it"
    )


TWO_KINDS = VALID.replace("  one:\n", "  one:\n    faiss: IVF8,Flat\n").replace(
    "  two:\n", "  two:\n    faiss: IVF4_HNSW8,Flat\n"
)


def test_knobs_are_searched_like_anything_else(tmp_path: Path):
    varied = ["space.retrieval.nprobe={ordinal: [1, 2, 4]}", "trial.retrieval.nprobe=2"]

    spec = load_spec(write_space(tmp_path, TWO_KINDS), varied)

    assert spec.trial_with({"retrieval.nprobe": 4}).retrieval.nprobe == 4
    assert spec.file.trial.retrieval.ef_search is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "trial.retrieval.ef_search=16",
            "index 'one' is IVF8,Flat, which has no use for it; leave it out, or build an HNSW",
        ),
        (
            "space.retrieval.ef_search={choice: [null, 16]}",
            "index 'one' is IVF8,Flat, which has no use",
        ),
        (
            "space.retrieval.nprobe={int: [1, 5]}",
            "index 'two' is IVF4_HNSW8,Flat, which has no 5 cells; lower it",
        ),
    ],
)
def test_every_index_of_the_space_must_have_a_use_for_every_value(
    tmp_path: Path, option: str, message: str
):
    path = write_space(tmp_path, TWO_KINDS)

    with pytest.raises(BadInputError, match=message) as caught:
        load_spec(path, [option])

    assert str(caught.value).startswith(f"-o {option.partition('=')[0]}: ")


def test_a_knob_is_silent_about_an_index_there_is_not(tmp_path: Path):
    path = write_space(tmp_path)

    with pytest.raises(BadInputError) as caught:
        load_spec(path, ["trial.retrieval={index: three, nprobe: 4}"])

    unknown, of_the_space = caught.value.mistakes
    assert "no index 'three'" in unknown.what
    assert "index 'one' is Flat, which has no use for it" in of_the_space.what
