import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, RagConfig, RagRetriever

from ragsearch.index.store import Passage
from ragsearch.training.contexts import ContextBuilder
from tests.tiny import Tiny


@pytest.fixture(scope="module")
def builder(tiny: Tiny) -> ContextBuilder:
    return ContextBuilder(AutoTokenizer.from_pretrained(tiny.t5), max_length=48)


def passage(text: str, title: str = "Baba - Geography") -> Passage:
    return Passage("1", "1", title, text)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    title=st.text(max_size=30),
    text=st.text(max_size=400),
    question=st.text(min_size=1, max_size=8).map(lambda text: text.replace("  ", " ")),
)
def test_the_question_is_never_cut_however_long_the_passage(
    builder: ContextBuilder, title: str, text: str, question: str
) -> None:
    """B8: stock cuts the right end of the context, where the question stands."""
    contexts = builder.build([question], [[passage(text, title)]])

    assert contexts.texts[0].endswith(question)
    assert contexts.input_ids.shape[1] <= 48
    again = builder.tokenizer(contexts.texts[0])["input_ids"]
    assert contexts.input_ids[0].tolist() == again


def test_a_long_passage_keeps_as_much_of_its_beginning_as_has_room(
    builder: ContextBuilder,
) -> None:
    contexts = builder.build(["how long?"], [[passage("word " * 100)]])

    assert contexts.texts[0].startswith("Baba - Geography / word word")
    assert contexts.texts[0].endswith(" // how long?")
    assert 46 <= contexts.input_ids.shape[1] <= 48


def test_a_question_longer_than_the_context_is_cut_at_its_end(builder: ContextBuilder) -> None:
    contexts = builder.build(["x" * 500], [[passage("text")]])

    assert contexts.input_ids.shape[1] == 48
    assert contexts.input_ids[0, -1] == builder.tokenizer.eos_token_id


def test_the_generator_reads_the_users_own_words(builder: ContextBuilder) -> None:
    """B9: stock hands on a lower-cased decode of the question encoder's tokens."""
    question = "…in Québec 北京 ☃?"

    contexts = builder.build([question], [[passage("text")]])

    assert contexts.texts == [f"Baba - Geography / text // {question}"]
    ids = contexts.input_ids[0]
    assert builder.tokenizer.decode(ids, skip_special_tokens=True) == contexts.texts[0]


def test_no_passage_gives_the_question_alone(builder: ContextBuilder) -> None:
    assert builder.build(["why?"], [[None]]).texts == [" // why?"]


def test_the_prefix_is_never_cut(tiny: Tiny) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.t5)
    builder = ContextBuilder(tokenizer, 48, prefix="question: ")

    texts = builder.build(["how long?"] * 2, [[passage("word " * 100)], [None]]).texts

    assert texts[0].startswith("question: Baba - Geography / word")
    assert texts[0].endswith(" // how long?")
    assert texts[1] == "question: // how long?"


@pytest.mark.parametrize(
    ("prefix", "separators"), [(None, (" / ", " // ")), ("answer: ", (" : ", " | "))]
)
def test_contexts_equal_those_of_transformers(
    prefix: str | None, separators: tuple[str, str], builder: ContextBuilder
) -> None:
    rows = [
        [passage("Capital: Bexlan.  Coast: 7 km."), passage("Capital: Os.", '"Os"')],
        [passage("Age: 30 years."), passage("City: Tu.", "Tu - People")],
    ]
    questions = ["what is the capital of baba?", "which city?"]
    config = RagConfig(
        question_encoder={"model_type": "dpr"},
        generator={"model_type": "t5"},
        title_sep=separators[0],
        doc_sep=separators[1],
        max_combined_length=64,
        n_docs=2,
        index_name="custom",
    )
    stock = RagRetriever.__new__(RagRetriever)  # its index plays no part in this
    stock.config, stock.generator_tokenizer = config, builder.tokenizer
    documents = [
        {"title": [one.title for one in row], "text": [one.text for one in row]} for row in rows
    ]

    ours = ContextBuilder(builder.tokenizer, 64, prefix or "", *separators)
    ours = ours.build(questions, rows)
    theirs, their_mask = stock.postprocess_docs(
        documents, questions, prefix, n_docs=2, return_tensors="pt"
    )

    width = ours.input_ids.shape[1]
    assert torch.equal(ours.input_ids, theirs[:, :width])
    assert torch.equal(ours.attention_mask, their_mask[:, :width])
    assert not their_mask[:, width:].any()


def test_questions_and_their_passages_come_in_equal_numbers(builder: ContextBuilder) -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        builder.build(["one", "two"], [[None]])
