"""Models and questions made for the bench."""

import numpy as np
from transformers import AutoTokenizer

from ragsearch.bench.indexes import made
from ragsearch.bench.models import make_models, make_questions
from ragsearch.bench.plan import Kind
from ragsearch.bench.train_plan import Size
from ragsearch.index.open import open_index
from ragsearch.spec import TrialSection
from ragsearch.training.model import assemble


def test_models_are_the_same_each_time_and_encode_questions_apart(tmp_path):
    first, again = (make_models(Size.TINY, tmp_path / name) for name in ("first", "again"))

    vectors = []
    for models in (first, again):
        trial = TrialSection.model_validate({
            "model": {
                "question_encoder": str(models.question_encoder),
                "generator": str(models.generator),
            }
        })
        model = assemble(trial)
        model.stop_training()
        texts = [question.question for question in make_questions(8)]
        vectors.append(model.encode_questions(texts).detach().numpy())
    np.testing.assert_array_equal(*vectors)
    assert vectors[0].shape == (8, first.dimension)
    unit = vectors[0] / np.linalg.norm(vectors[0], axis=1, keepdims=True)
    assert (unit @ unit.T)[~np.eye(8, dtype=bool)].max() < 0.95


def test_texts_have_as_many_tokens_as_english_ones_and_none_is_unknown(tmp_path):
    models = make_models(Size.TINY, tmp_path)
    generator = AutoTokenizer.from_pretrained(models.generator)
    encoder = AutoTokenizer.from_pretrained(models.question_encoder)
    store = open_index(made(Kind.EXACT, 100, 16, tmp_path).folder).store

    passages = store.take(list(range(100)))
    lengths = [len(generator(passage.text)["input_ids"]) for passage in passages]
    (question,) = make_questions(1)

    assert 130 < np.mean(lengths) < 150
    assert (
        generator.decode(generator(passages[0].text)["input_ids"], skip_special_tokens=True)
        == passages[0].text
    )
    ids = encoder(question.question)["input_ids"]
    assert encoder.unk_token_id not in ids
    assert encoder.decode(ids, skip_special_tokens=True) == question.question
    assert len({question.question for question in make_questions(50)}) == 50
