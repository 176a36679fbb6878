import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DPRQuestionEncoder

from ragsearch.errors import BadInputError
from ragsearch.training.model import RagModel, assemble
from ragsearch.training.parts import keep_no_activations
from tests.tiny import Tiny
from tests.training.conftest import MakeTrial


@pytest.fixture
def checkpoint(make_trial: MakeTrial, tmp_path: Path) -> RagModel:
    """A RAG checkpoint in `tmp_path`, its weights unlike those of its parts."""
    model = assemble(make_trial("t5"))
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.01)
    model.save(tmp_path)
    return model


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_both_parts_are_taken_out_of_a_whole_checkpoint(
    kind: str, checkpoint: RagModel, make_trial: MakeTrial, tmp_path: Path
) -> None:
    whole = {"model__question_encoder": str(tmp_path), "model__generator": str(tmp_path)}

    model = assemble(make_trial("t5", model__type=kind, **whole))

    before = checkpoint.network.state_dict()
    assert model.network.state_dict().keys() == before.keys()
    for name, weight in model.network.state_dict().items():
        assert torch.equal(weight, before[name])
    assert (
        model.question_tokenizer("Fiji")["input_ids"]
        == (checkpoint.question_tokenizer("Fiji")["input_ids"])
    )


@pytest.mark.usefixtures("checkpoint")
def test_the_trials_dropout_reaches_a_generator_out_of_a_checkpoint(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    trial = make_trial("t5", model__generator=str(tmp_path), regularisation__dropout=0.25)

    rates = {
        m.p for m in assemble(trial).generator.modules() if isinstance(m, torch.nn.Dropout)
    }

    assert rates == {0.25}


def test_one_part_may_come_out_of_a_checkpoint_and_the_other_from_elsewhere(
    checkpoint: RagModel, tiny: Tiny, make_trial: MakeTrial, tmp_path: Path
) -> None:
    model = assemble(make_trial("bart", model__question_encoder=str(tmp_path)))

    mine = DPRQuestionEncoder.from_pretrained(tiny.question_encoder).state_dict()
    assert model.generator.config.model_type == "bart"
    for name, weight in model.question_encoder.state_dict().items():
        assert torch.equal(weight, checkpoint.question_encoder.state_dict()[name])
        assert weight.shape == mine[name].shape


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("generator", "generator_tokenizer"),
        ("question_encoder", "question_encoder_tokenizer"),
    ],
)
def test_a_checkpoint_without_a_tokenizer_is_refused(
    part: str, lost: str, make_trial: MakeTrial, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / lost)

    with pytest.raises(BadInputError, match=rf"trial\.model\.{part}: cannot be loaded as a "):
        assemble(make_trial("t5", **{f"model__{part}": str(tmp_path)}))


def test_a_context_encoder_in_a_checkpoint_is_left_where_it_is(
    checkpoint: RagModel, make_trial: MakeTrial, tmp_path: Path
) -> None:
    """B29: end-to-end training saves one, which Transformers reads as weights too many."""
    weights = load_file(tmp_path / "model.safetensors")
    for name in list(weights):
        if name.startswith("rag.question_encoder."):
            other = name.replace("question_encoder", "ctx_encoder", 1)
            weights[other] = torch.zeros_like(weights[name])
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    whole = {"model__question_encoder": str(tmp_path), "model__generator": str(tmp_path)}

    model = assemble(make_trial(**whole))

    ours, theirs = model.network.state_dict(), checkpoint.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_a_folder_that_is_no_model_is_refused(make_trial: MakeTrial, tmp_path: Path) -> None:
    for part in ("question_encoder", "generator"):
        with pytest.raises(BadInputError, match=rf"{tmp_path}"):
            assemble(make_trial("t5", **{f"model__{part}": str(tmp_path)}))


def test_a_part_that_cannot_compute_twice_is_refused(make_trial: MakeTrial) -> None:
    with pytest.raises(BadInputError, match="checkpointing: a Linear does not support"):
        keep_no_activations(torch.nn.Linear(1, 1), make_trial())
