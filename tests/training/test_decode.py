"""Decoding against slow references, written from section 2.5 of Lewis et al. 2020."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ragsearch.data.questions import Question
from ragsearch.training import decode
from ragsearch.training.contexts import Contexts
from ragsearch.training.decode import generate_answers
from ragsearch.training.encoded import encode_contexts
from ragsearch.training.model import RagModel, assemble, generation_config
from ragsearch.training.pipeline import Pipeline
from tests.training.conftest import FakeRetriever, MakeTrial


@pytest.fixture(params=["t5", "bart"])
def generator(request: pytest.FixtureRequest) -> str:
    return request.param


def assembled(make_trial: MakeTrial, generator: str, **settings: object) -> RagModel:
    """Return a model in evaluation mode whose random answers differ from passage to passage."""
    model = assemble(make_trial(generator, decode__max_length=6, **settings))
    model.network.train(mode=False)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in model.generator.named_parameters():
            if "encoder_attn" in name or "EncDecAttention" in name:
                weight.add_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.0))
    return model


def read(pipeline: Pipeline, texts: list[str], n_docs: int) -> tuple[Contexts, Tensor]:
    with torch.no_grad():
        found = pipeline.retrieve(texts, n_docs)
    # scores of random encoders differ by tens: of one passage's weight, all the mass
    return pipeline.read(texts, found), found.doc_scores / 10.0


def single(contexts: Contexts, row: int) -> Tensor:
    length = int(contexts.attention_mask[row].sum())
    return contexts.input_ids[row : row + 1, :length]


def token_log_probs(model: RagModel, context: Tensor, labels: Tensor) -> Tensor:
    start = torch.tensor([[model.generator.config.decoder_start_token_id]])
    decoder_input = torch.cat([start, labels[None, :-1]], dim=1)
    logits = model.generator(
        input_ids=context,
        attention_mask=torch.ones_like(context),
        decoder_input_ids=decoder_input,
    ).logits
    return logits.log_softmax(-1)[0, torch.arange(len(labels)), labels]


def until_end(model: RagModel, row: Tensor) -> tuple[int, ...]:
    tokens = row.tolist()[1:]
    eos = model.generator.config.eos_token_id
    return tuple(tokens[: tokens.index(eos) + 1] if eos in tokens else tokens)


@torch.no_grad()
def slow_rag_sequence(model: RagModel, contexts: Contexts, scores: Tensor) -> tuple[str, int]:
    """Return the answer to one question, and of how many it was the best."""
    settings = generation_config(model)
    settings.num_return_sequences = model.trial.decode.num_beams
    rows = range(len(scores))
    candidates = {
        until_end(model, row)
        for number in rows
        for row in model.generator.generate(
            single(contexts, number),
            attention_mask=torch.ones_like(single(contexts, number)),
            generation_config=settings,
        )
    }
    weights = scores.log_softmax(-1)
    likelihood = {
        tokens: torch.stack([
            weights[number]
            + token_log_probs(model, single(contexts, number), torch.tensor(tokens)).sum()
            for number in rows
        ]).logsumexp(0)
        for tokens in candidates
    }
    best = max(likelihood, key=lambda tokens: likelihood[tokens].item())
    text = model.generator_tokenizer.decode(list(best), skip_special_tokens=True)
    return text.strip(), len(candidates)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_thorough_decoding_finds_the_answer_of_the_largest_marginal_likelihood(
    generator: str,
    num_beams: int,
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
) -> None:
    model = assembled(make_trial, generator, decode__num_beams=num_beams)
    texts = [question.question for question in train[:3:2]]
    contexts, scores = read(Pipeline(model, retriever), texts, n_docs=3)

    answers = generate_answers(model, contexts, scores)

    expected = []
    for number in range(len(texts)):
        rows = slice(3 * number, 3 * number + 3)
        own = Contexts(contexts.input_ids[rows], contexts.attention_mask[rows])
        expected.append(slow_rag_sequence(model, own, scores[number]))
    assert answers == [text for text, _ in expected]
    assert max(n_candidates for _, n_candidates in expected) > 1


@pytest.mark.parametrize("most_bytes", [1, 100_000])
def test_how_many_candidates_are_scored_at_a_time_changes_no_answer(
    most_bytes: int,
    generator: str,
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = assembled(make_trial, generator, decode__num_beams=3)
    texts = [question.question for question in train[:4]]
    contexts, scores = read(Pipeline(model, retriever), texts, n_docs=3)
    passes: list[int] = []
    model.generator.register_forward_hook(lambda *_: passes.append(1))
    together, n_together = generate_answers(model, contexts, scores), len(passes)

    monkeypatch.setattr(decode, "_MOST_BYTES", most_bytes)
    apart = generate_answers(model, contexts, scores)

    assert apart == together
    assert len(passes) - n_together > n_together


def test_passages_that_agree_on_an_answer_are_not_asked_again(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question]
) -> None:
    model = assembled(make_trial, "t5")
    texts = [question.question for question in train[:2]]
    contexts, scores = read(Pipeline(model, retriever), texts, n_docs=1)
    encoded = encode_contexts(model, contexts)
    asked: list[object] = []
    model.generator.register_forward_hook(lambda *call: asked.append(call))

    generate_answers(model, contexts, scores, encoded)

    assert len(asked) <= model.trial.decode.max_length  # the steps of writing, and no more


@torch.no_grad()
def slow_rag_token(model: RagModel, contexts: Contexts, scores: Tensor) -> str:
    """Step greedily over the marginal distribution, each context alone and unpadded."""
    weights = scores.log_softmax(-1)
    tokens: list[int] = []
    while len(tokens) < model.trial.decode.max_length:
        decoder_input = [model.generator.config.decoder_start_token_id, *tokens]
        steps = [
            model
            .generator(
                input_ids=single(contexts, number),
                decoder_input_ids=torch.tensor([decoder_input]),
            )
            .logits[0, -1]
            .log_softmax(-1)
            for number in range(len(scores))
        ]
        marginal = (torch.stack(steps) + weights[:, None]).logsumexp(0)
        tokens.append(int(marginal.argmax()))
        if tokens[-1] == model.generator.config.eos_token_id:
            break
    return model.generator_tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_rag_token_steps_over_the_marginal_distribution(
    generator: str,
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
) -> None:
    model = assembled(make_trial, generator, model__type="rag_token")
    texts = [question.question for question in train[:3:2]]
    contexts, scores = read(Pipeline(model, retriever), texts, n_docs=3)

    answers = generate_answers(model, contexts, scores)

    expected = []
    for number in range(len(texts)):
        rows = slice(3 * number, 3 * number + 3)
        own = Contexts(contexts.input_ids[rows], contexts.attention_mask[rows])
        expected.append(slow_rag_token(model, own, scores[number]))
    assert answers == expected


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_padding_changes_no_answer(
    kind: str,
    num_beams: int,
    generator: str,
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
) -> None:
    """B2: stock RAG-Sequence generates without the contexts' mask."""
    settings = {"model__type": kind, "decode__num_beams": num_beams}
    model = assembled(make_trial, generator, **settings)
    texts = [question.question for question in train[:3]]
    contexts, scores = read(Pipeline(model, retriever), texts, n_docs=2)
    pad = model.generator_tokenizer.pad_token_id
    padded = replace(
        contexts,
        input_ids=torch.nn.functional.pad(contexts.input_ids, (0, 20), value=pad),
        attention_mask=torch.nn.functional.pad(contexts.attention_mask, (0, 20)),
    )

    assert generate_answers(model, padded, scores) == generate_answers(model, contexts, scores)


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_answers_come_from_the_passages_given_not_from_the_configured_number(
    kind: str, make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question]
) -> None:
    """B3: stock RAG-Sequence scores with `config.n_docs` passages whatever it is given."""
    model = assembled(make_trial, "bart", model__type=kind, retrieval__n_docs=2)
    contexts, scores = read(Pipeline(model, retriever), [train[0].question], n_docs=4)
    scores[:, 3] += 5.0  # the last passage counts most

    answers = generate_answers(model, contexts, scores)

    assert model.network.config.n_docs == 2
    if kind == "rag_token":
        assert answers == [slow_rag_token(model, contexts, scores[0])]
    else:
        assert answers == [slow_rag_sequence(model, contexts, scores[0])[0]]


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_a_missing_passage_takes_no_part_in_an_answer(
    kind: str, make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question]
) -> None:
    model = assembled(make_trial, "t5", model__type=kind)
    texts = [question.question for question in train[:2]]
    contexts, scores = read(Pipeline(model, retriever), texts, n_docs=3)
    scores[:, 2] = -torch.inf
    keep = torch.tensor([0, 1, 3, 4])
    fewer = Contexts(contexts.input_ids[keep], contexts.attention_mask[keep])

    answers = generate_answers(model, contexts, scores)

    assert answers == generate_answers(model, fewer, scores[:, :2])


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_an_answer_may_have_as_many_tokens_as_max_length_says(
    kind: str, make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question]
) -> None:
    """Transformers counts the start token too, and so would stop one token short."""
    model = assembled(make_trial, "t5", model__type=kind)
    model.generator.get_output_embeddings().weight.data[1] = 0.0  # hardly ever an end
    texts = [train[0].question]
    contexts, scores = read(Pipeline(model, retriever), texts, n_docs=1)

    answer = generate_answers(model, contexts, scores)[0]

    said = generation_config(model).max_length
    assert said == 7
    assert answer == slow_rag_sequence(model, contexts, scores[0])[0]
