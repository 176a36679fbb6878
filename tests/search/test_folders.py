"""An index folder that is there already serves a search as it is."""

import shutil

import pytest

from ragsearch.cli.app import app
from ragsearch.data.check import check_inputs
from ragsearch.errors import BadInputError
from ragsearch.index.build import build_index
from ragsearch.search.plan import make_plan
from ragsearch.search.run import build_indexes
from ragsearch.spec.index_section import IndexSection
from tests.tiny import tiny_dpr


@pytest.fixture(scope="module")
def kept(tiny, tmp_path_factory):
    """Return the folder of an index, to be read only."""
    settings = IndexSection(corpus=str(tiny.corpus), encoder=str(tiny.context_encoder))
    return build_index(settings, tmp_path_factory.mktemp("kept") / "kb").folder


def test_a_search_opens_the_folder_and_builds_nothing(kept, space_of, tmp_path):
    spec = space_of(indexes={"kb": {"folder": str(kept)}})

    opened = build_indexes(spec, tmp_path / "runs")

    assert opened["kb"].folder == kept
    assert not (tmp_path / "runs").exists()


def test_the_plan_counts_the_index_in_the_folder(kept, space_of):
    spec = space_of(indexes={"kb": {"folder": str(kept)}})

    plan = make_plan(spec, check_inputs(spec))

    assert (plan.indexes[0].n_passages, plan.indexes[0].index_bytes) == (40, 40 * 32 * 4)


def test_a_question_encoder_of_another_width_is_refused(kept, space_of, tiny, tmp_path):
    model = {
        "question_encoder": str(tiny_dpr(tmp_path / "wide", dim=64)),
        "generator": str(tiny.t5),
    }
    spec = space_of(indexes={"kb": {"folder": str(kept)}}, trial={"model": model})

    with pytest.raises(
        BadInputError, match=r"indexes\.kb\.folder: gives vectors of 32 numbers"
    ):
        make_plan(spec, check_inputs(spec))


def test_a_folder_that_lacks_a_file_is_told_before_the_search(kept, space_of, tmp_path):
    shutil.copytree(kept, tmp_path / "kb")
    (tmp_path / "kb/index.faiss").unlink()
    spec = space_of(indexes={"kb": {"folder": str(tmp_path / "kb")}})

    with pytest.raises(BadInputError, match=r"indexes\.kb\.folder: .*index\.faiss: is missing"):
        make_plan(spec, check_inputs(spec))


def test_what_is_there_already_is_not_built(kept, space_of):
    spec = space_of(indexes={"kb": {"folder": str(kept)}})

    with pytest.raises(BadInputError, match="nothing to build: the index is a folder that is"):
        app(["index", "build", str(spec.source)], standalone_mode=False)
