"""A RAG model opened for retrieval is the saved one, as far as it goes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ragsearch.data.questions import Question
from ragsearch.errors import BadInputError
from ragsearch.training.model import assemble, load
from tests.tiny import Tiny
from tests.training.conftest import MakeTrial


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
@pytest.mark.parametrize("encoder", ["question_encoder", "bert"])
def test_an_encoder_alone_gives_the_vectors_of_the_whole_model(
    kind: str, encoder: str, tiny: Tiny, make_trial: MakeTrial, val: list[Question],
    tmp_path: Path,
) -> None:  # fmt: skip
    name = str(getattr(tiny, encoder))
    model = assemble(make_trial(model__type=kind, model__question_encoder=name))
    model.save(tmp_path)
    texts = [question.question for question in val]

    alone, whole = load(tmp_path, encoder_only=True), load(tmp_path)

    assert torch.equal(alone.encode_questions(texts), whole.encode_questions(texts))
    assert not alone.question_encoder.training


def test_the_generator_of_an_encoder_alone_holds_no_numbers(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    assemble(make_trial()).save(tmp_path)

    model = load(tmp_path, encoder_only=True)

    assert {parameter.device.type for parameter in model.generator.parameters()} == {"meta"}
    assert {p.device.type for p in model.question_encoder.parameters()} == {"cpu"}


def test_an_encoder_in_several_files_is_read_from_all(
    make_trial: MakeTrial, val: list[Question], tmp_path: Path
) -> None:
    model = assemble(make_trial())
    model.save(tmp_path)
    model.network.save_pretrained(tmp_path / "parts", max_shard_size="30KB")
    for file in (tmp_path / "parts").glob("model*"):
        file.rename(tmp_path / file.name)
    (tmp_path / "model.safetensors").unlink()

    texts = [question.question for question in val]

    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    vectors = load(tmp_path, encoder_only=True).encode_questions(texts)
    assert torch.equal(vectors, load(tmp_path).encode_questions(texts))


def test_an_encoder_that_lacks_weights_is_refused(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    assemble(make_trial()).save(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lost = min(name for name in weights if name.startswith("rag.question_encoder."))
    del weights[lost]
    save_file(weights, file, {"format": "pt"})

    with pytest.raises(BadInputError, match="1 weights are missing, such as question_encoder"):
        load(tmp_path, encoder_only=True)
