import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    RagConfig,
    RagRetriever,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)

from ragsearch.data.questions import Question
from ragsearch.errors import BadInputError
from ragsearch.spec.models import _LACKING, OPTIONAL_KEYS
from ragsearch.training.decode import generate_answers
from ragsearch.training.model import RagModel, assemble, load
from ragsearch.training.pipeline import Pipeline
from tests.tiny import Tiny
from tests.training.conftest import FakeRetriever, MakeTrial

CLASSES = {"rag_sequence": RagSequenceForGeneration, "rag_token": RagTokenForGeneration}


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_an_assembled_model_has_the_weights_of_its_parts(
    generator: str, tiny: Tiny, make_trial: MakeTrial
) -> None:
    model = assemble(make_trial(generator))

    encoder = AutoModel.from_pretrained(tiny.question_encoder).state_dict()
    generated_by = AutoModelForSeq2SeqLM.from_pretrained(getattr(tiny, generator)).state_dict()
    for name, weight in model.question_encoder.state_dict().items():
        assert torch.equal(weight, encoder[name])
    for name, weight in model.generator.state_dict().items():
        assert torch.equal(weight, generated_by[name])


@pytest.mark.parametrize("generator", ["t5", "bart"])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_saved_model_is_the_same_here_and_in_stock_transformers(
    kind: str,
    generator: str,
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
    tmp_path: Path,
) -> None:
    model = assemble(make_trial(generator, model__type=kind, decode__num_beams=2))
    model.network.train(mode=False)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save(tmp_path)

    loaded = load(tmp_path)
    stock = CLASSES[kind].from_pretrained(tmp_path).eval()
    tokenizer = RagTokenizer.from_pretrained(tmp_path)

    texts = ["What is the capital of Québec?", train[0].question]
    pipelines = Pipeline(model, retriever), Pipeline(loaded, retriever)
    with torch.no_grad():
        found = [pipeline.retrieve(texts, 3) for pipeline in pipelines]
        contexts = [pipe.read(texts, hits) for pipe, hits in zip(pipelines, found, strict=True)]
        labels = pipelines[0].labels([train[0].answers[0]] * 2)
        logits = [
            pipe.logits(text, hits.doc_scores, labels)
            for pipe, text, hits in zip(pipelines, contexts, found, strict=True)
        ]
        stock_logits = stock(
            context_input_ids=contexts[0].input_ids,
            context_attention_mask=contexts[0].attention_mask,
            doc_scores=found[0].doc_scores,
            decoder_input_ids=labels.ids,
            n_docs=3,
        ).logits
        ours = model.network(
            context_input_ids=contexts[0].input_ids,
            context_attention_mask=contexts[0].attention_mask,
            doc_scores=found[0].doc_scores,
            decoder_input_ids=labels.ids,
            n_docs=3,
        ).logits
    answers = [
        generate_answers(pipe.model, text, hits.doc_scores)
        for pipe, text, hits in zip(pipelines, contexts, found, strict=True)
    ]
    assert torch.equal(found[0].doc_scores, found[1].doc_scores)
    assert torch.equal(*logits)
    assert torch.equal(stock_logits, ours)
    assert answers[0] == answers[1]
    for text in texts:
        before = model.generator_tokenizer(text)["input_ids"]
        assert tokenizer.generator(text)["input_ids"] == before
        assert loaded.generator_tokenizer(text)["input_ids"] == before
        before = model.question_tokenizer(text)["input_ids"]
        assert tokenizer.question_encoder(text)["input_ids"] == before
        assert loaded.question_tokenizer(text)["input_ids"] == before


def test_a_saved_t5_gives_stock_rag_sequence_a_loss(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    """B1: without a `bos_token_id` in the generator's configuration stock has no answer."""
    assemble(make_trial("t5")).save(tmp_path)

    stock = RagSequenceForGeneration.from_pretrained(tmp_path)
    loss = stock(
        context_input_ids=torch.tensor([[17, 1]]),
        context_attention_mask=torch.ones(1, 2, dtype=torch.int64),
        doc_scores=torch.zeros(1, 1),
        labels=torch.tensor([[0, 17, 1]]),
        n_docs=1,
    ).loss

    assert loss.isfinite()


def test_whole_numbers_reach_the_strict_configuration_as_it_wants_them(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    """B5: `0` for a share, as YAML has it, is an error of `RagConfig`."""
    keys = ("dropout", "attention_dropout", "label_smoothing", "encoder_layerdrop")
    trial = make_trial("bart", **{f"regularisation__{key}": 0 for key in keys})

    assemble(trial).save(tmp_path)

    config = RagConfig.from_pretrained(tmp_path)
    assert type(config.n_docs) is int
    assert type(config.label_smoothing) is float
    assert type(config.generator.dropout) is type(config.generator.encoder_layerdrop) is float


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_stock_transformers_reads_the_same_contexts(
    generator: str, make_trial: MakeTrial, retriever: FakeRetriever, tmp_path: Path
) -> None:
    """B16: without a `prefix` in the generator's configuration RagRetriever has no answer."""
    keys = {"prefix": "answer: ", "title_separator": " : ", "doc_separator": " | "}
    trial = make_trial(generator, **{f"model__{key}": value for key, value in keys.items()})
    assemble(trial).save(tmp_path)
    model, question = load(tmp_path), "which city?"
    pipeline = Pipeline(model, retriever)
    found = pipeline.retrieve([question], 2)

    stock = RagRetriever.__new__(RagRetriever)  # its index plays no part in this
    stock.config = RagConfig.from_pretrained(tmp_path)
    stock.generator_tokenizer = RagTokenizer.from_pretrained(tmp_path).generator
    passages = [passage for passage in found.passages[0] if passage is not None]
    document = {
        "title": [one.title for one in passages],
        "text": [one.text for one in passages],
    }
    ids, mask = stock.postprocess_docs(
        [document], [question], stock.config.generator.prefix, n_docs=2, return_tensors="pt"
    )

    ours = pipeline.read([question], found)
    width = ours.input_ids.shape[1]
    texts = pipeline.contexts.texts([question], found.passages)
    assert texts[0].startswith(f"answer: {passages[0].title} : {passages[0].text[:9]}")
    assert torch.equal(ours.input_ids, ids[:, :width])
    assert not mask[:, width:].any()


def test_decoding_settings_are_saved_whole(make_trial: MakeTrial, tmp_path: Path) -> None:
    model = assemble(make_trial("bart", decode__num_beams=4, decode__max_length=9))

    model.save(tmp_path)

    saved = GenerationConfig.from_pretrained(tmp_path)
    assert (saved.num_beams, saved.max_length) == (4, 10)  # the start token counts there
    assert (saved.length_penalty, saved.early_stopping, saved.do_sample) == (1.0, False, False)
    assert (saved.bos_token_id, saved.pad_token_id, saved.eos_token_id) == (0, 1, 2)
    assert saved.decoder_start_token_id == 2


def test_a_generators_own_decoding_habits_do_not_slip_in(
    tiny: Tiny, make_trial: MakeTrial, tmp_path: Path
) -> None:
    """`generate` fills what it is not told from the model, as BART's n-gram ban."""
    folder = shutil.copytree(tiny.bart, tmp_path / "bart")
    habits = GenerationConfig.from_pretrained(folder)
    habits.no_repeat_ngram_size, habits.min_length, habits.forced_bos_token_id = 1, 9, 0
    habits.save_pretrained(folder)

    generator = assemble(make_trial(model__generator=str(folder))).generator

    assert generator.generation_config.no_repeat_ngram_size is None
    assert generator.generation_config.min_length is None
    assert generator.generation_config.forced_bos_token_id is None


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_dropout_reaches_the_generator(generator: str, make_trial: MakeTrial) -> None:
    model = assemble(make_trial(generator, regularisation__dropout=0.25))

    probabilities = {
        module.p for module in model.generator.modules() if isinstance(module, torch.nn.Dropout)
    }
    key = "dropout_rate" if generator == "t5" else "dropout"
    assert getattr(model.network.config.generator, key) == 0.25
    if generator == "t5":
        assert probabilities == {0.25}
    else:  # BART drops by function
        assert model.generator.model.encoder.layers[0].dropout == 0.25


def test_attention_dropout_reaches_bart(make_trial: MakeTrial) -> None:
    model = assemble(make_trial("bart", regularisation__attention_dropout=0.2))

    assert model.generator.model.decoder.layers[0].self_attn.dropout == 0.2


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_layers_of_bart_are_dropped_in_training_only(
    part: str, make_trial: MakeTrial, retriever: FakeRetriever
) -> None:
    model = assemble(make_trial("bart", **{f"regularisation__{part}_layerdrop": 0.999}))
    ran: list[bool] = []
    for layer in getattr(model.generator.model, part).layers:
        layer.register_forward_hook(lambda *_: ran.append(True))
    pipeline = Pipeline(model, retriever)

    def run() -> int:
        ran.clear()
        found = pipeline.retrieve(["which city?"], 1)
        labels = pipeline.labels(["Baba"])
        pipeline.logits(pipeline.read(["which city?"], found), found.doc_scores, labels)
        return len(ran)

    model.start_training()
    in_training = run()
    model.network.train(mode=False)

    assert (in_training, run()) == (0, 2)
    assert getattr(model.network.config.generator, f"{part}_layerdrop") == 0.999


@pytest.mark.parametrize("key", OPTIONAL_KEYS)
def test_what_t5_lacks_is_refused(key: str, make_trial: MakeTrial) -> None:
    """B31: else a search over it would compare equal trials."""
    with pytest.raises(BadInputError, match=rf"{key}: a t5 generator has none; leave"):
        assemble(make_trial("t5", **{f"regularisation__{key}": 0.2}))


@pytest.mark.parametrize("family", _LACKING)
def test_the_families_known_to_lack_a_key_do(family: str) -> None:
    config = AutoConfig.for_model(family)

    lacking = {key for key in OPTIONAL_KEYS if not hasattr(config, key)}
    assert lacking == set(_LACKING[family])


def test_a_generator_that_is_none_is_refused(tiny: Tiny, make_trial: MakeTrial) -> None:
    with pytest.raises(BadInputError, match="cannot be loaded as a generator"):
        assemble(make_trial(model__generator=str(tiny.root / "nothing")))


def test_a_generator_without_dropout_is_refused(make_trial: MakeTrial, tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)

    with pytest.raises(BadInputError, match="a bert generator has no dropout to set"):
        assemble(make_trial(model__generator=str(tmp_path)))


def test_a_generator_with_missing_weights_is_refused(
    tiny: Tiny, make_trial: MakeTrial, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny.t5, tmp_path / "t5")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 3}))

    with pytest.raises(BadInputError, match=r"weights are missing, such as encoder\.block\.2"):
        assemble(make_trial(model__generator=str(folder)))


def test_a_generator_whose_tokenizer_ends_no_text_is_refused(
    tiny: Tiny, make_trial: MakeTrial, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny.t5, tmp_path / "t5")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.save_pretrained(folder)

    with pytest.raises(BadInputError, match="does not end a text with its end token"):
        assemble(make_trial(model__generator=str(folder)))


@pytest.mark.parametrize("key", ["max_context_length", "max_source_length"])
def test_more_tokens_than_a_model_reads_are_refused(key: str, make_trial: MakeTrial) -> None:
    sizes = assemble(make_trial("bart")).network.config
    part = sizes.generator if key == "max_context_length" else sizes.question_encoder
    most = part.max_position_embeddings
    trial = make_trial("bart", **{f"train__{key}": most + 1})

    with pytest.raises(BadInputError, match=rf"train\.{key}: reads at most {most} tokens"):
        assemble(trial)


def test_a_checkpoint_in_half_precision_is_trained_in_float32(
    tiny: Tiny, make_trial: MakeTrial, tmp_path: Path
) -> None:
    """B14; Transformers 5 loads weights in the precision they were saved in."""
    folder = shutil.copytree(tiny.t5, tmp_path / "t5")
    AutoModelForSeq2SeqLM.from_pretrained(folder).half().save_pretrained(folder)

    network = assemble(make_trial(model__generator=str(folder))).network

    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_a_mean_pooled_question_encoder_survives_saving(
    tiny: Tiny, make_trial: MakeTrial, tmp_path: Path
) -> None:
    trial = make_trial(model__question_encoder=str(tiny.bert), model__normalise=True)
    model = assemble(trial)
    model.network.train(mode=False)

    model.save(tmp_path)
    loaded = load(tmp_path)

    questions = ["What is the capital of Baba?", "Why?"]
    vectors = model.encode_questions(questions)
    assert (model.pooling, loaded.pooling, loaded.trial) == ("mean", "mean", trial)
    assert torch.equal(loaded.encode_questions(questions), vectors)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model.encode_questions(questions[1:]), vectors[1:])


def test_a_mean_pooled_question_has_one_vector_alone_and_beside_a_longer_one(
    tiny: Tiny, make_trial: MakeTrial
) -> None:
    """B20: an encoder that is no DPR takes padding for words unless it is told."""
    model = assemble(make_trial(model__question_encoder=str(tiny.bert), model__pooling="mean"))
    model.stop_training()

    with torch.no_grad():
        alone = model.encode_questions(["Why?"])
        beside = model.encode_questions(["Why?", "What is the capital of Babex, and why?"])

    torch.testing.assert_close(beside[:1], alone)


@pytest.fixture
def bundle(make_trial: MakeTrial, tmp_path: Path) -> Path:
    assemble(make_trial()).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["trial.json", "config.json"])
def test_a_folder_that_is_no_bundle_is_refused(name: str, bundle: Path) -> None:
    (bundle / name).unlink()

    with pytest.raises(BadInputError, match=rf"no {name} here; give a folder written by"):
        load(bundle)


def test_a_bundle_with_other_sizes_than_its_weights_is_refused(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["generator"]["num_layers"] = 3
    (bundle / "config.json").write_text(json.dumps(config))

    with pytest.raises(BadInputError, match=r"cannot be read: \d+ weights are missing"):
        load(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "generator_tokenizer/tokenizer.json",
        "question_encoder_tokenizer/tokenizer.json",
    ],
)
def test_a_bundle_without_one_of_its_files_is_refused(name: str, bundle: Path) -> None:
    """B10: for a DPR tokenizer that is not there Transformers makes one up, of 5 tokens."""
    (bundle / name).unlink()

    with pytest.raises(BadInputError, match="cannot be read: "):
        load(bundle)


@pytest.mark.parametrize(
    ("name", "content"),
    [("trial.json", "{}"), ("trial.json", "not json"), ("model.safetensors", "cut off")],
)
def test_a_damaged_bundle_is_refused(name: str, content: str, bundle: Path) -> None:
    (bundle / name).write_text(content)

    with pytest.raises(BadInputError, match=r"cannot be read: .*export the model again"):
        load(bundle)


def test_a_model_knows_when_it_marginalises(make_trial: MakeTrial) -> None:
    model: RagModel = assemble(make_trial(model__type="rag_token"))

    assert model.kind == "rag_token"
    assert isinstance(model.network, RagTokenForGeneration)
