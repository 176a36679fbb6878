from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, RagConfig, RagRetriever

from ragsearch.index.store import Passage
from ragsearch.training.contexts import ContextBuilder, InseparableError
from tests.tiny import Tiny
from tests.training.tokenizers import (
    across_spaces_tokenizer,
    bart_tokenizer,
    quickstart_passages,
    quickstart_questions,
    t5_tokenizer,
)

MakeTokenizer = Callable[[Sequence[str]], PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def builder(tiny: Tiny) -> ContextBuilder:
    return ContextBuilder(AutoTokenizer.from_pretrained(tiny.t5), max_length=48)


def common_start(one: list[int], other: list[int]) -> int:
    return next(n for n, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) == 2)


def passage(text: str, title: str = "Baba - Geography") -> Passage:
    return Passage("1", "1", title, text)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    title=st.text(max_size=30).map(lambda title: title.strip('"')),  # which stock leaves out
    text=st.text(max_size=400),
    question=st.text(min_size=1, max_size=8).map(lambda text: text.replace("  ", " ")),
)
def test_the_question_is_never_cut_however_long_the_passage(
    builder: ContextBuilder, title: str, text: str, question: str
) -> None:
    """B8: stock cuts the right end of the context, where the question stands."""
    found = passage(text, title)
    ids = builder.build([question], [[found]]).input_ids[0].tolist()

    assert builder.texts([question], [[found]])[0].endswith(question)
    whole = builder.tokenizer(f"{title} / {text} // {question}".replace("  ", " "))["input_ids"]
    if len(whole) <= 48:
        assert ids == whole
    else:  # tokens of the passage go, one by one from its end
        n_kept = common_start(ids, whole)
        assert len(ids) == 48
        assert ids[n_kept:] == whole[len(whole) - (48 - n_kept) :]


def test_a_long_passage_keeps_as_much_of_its_beginning_as_has_room(
    builder: ContextBuilder,
) -> None:
    asked = ["how long?"], [[passage("word " * 100)]]
    contexts = builder.build(*asked)

    (text,) = builder.texts(*asked)
    assert text.startswith("Baba - Geography / word word")
    assert text.endswith(" // how long?")
    assert contexts.input_ids.shape[1] == 48
    assert contexts.input_ids[0].tolist() == builder.tokenizer(text)["input_ids"]


def test_a_question_longer_than_the_context_is_cut_at_its_end(builder: ContextBuilder) -> None:
    contexts = builder.build(["x" * 500], [[passage("text")]])

    assert contexts.input_ids.shape[1] == 48
    assert contexts.input_ids[0, -1] == builder.tokenizer.eos_token_id


def test_the_generator_reads_the_users_own_words(builder: ContextBuilder) -> None:
    """B9: stock hands on a lower-cased decode of the question encoder's tokens."""
    question = "…in Québec 北京 ☃?"

    asked = [question], [[passage("text")]]
    ids = builder.build(*asked).input_ids[0]

    (text,) = builder.texts(*asked)
    assert text == f"Baba - Geography / text // {question}"
    assert builder.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_no_passage_gives_the_question_alone(builder: ContextBuilder) -> None:
    ids = builder.build(["why?"], [[None]]).input_ids[0].tolist()

    assert builder.texts(["why?"], [[None]]) == [" // why?"]
    assert ids == builder.tokenizer(" // why?")["input_ids"]


def test_the_prefix_is_never_cut(tiny: Tiny) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.t5)
    builder = ContextBuilder(tokenizer, 48, prefix="question: ")

    questions, long = ["how long?", "how long?", "how" * 99], [passage("word " * 100)]
    texts = builder.texts(questions, [long, [None], long])
    ids = builder.build(questions, [long, [None], long]).input_ids

    assert texts[0].startswith("question: Baba - Geography / word")
    assert texts[0].endswith(" // how long?")
    assert texts[1] == "question: // how long?"
    assert tokenizer.decode(ids[2]).startswith("question: // howhow")


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


ODD = [
    passage("Capital: Os. ", ""),
    passage("two  spaces inside,  and at the end  "),
    passage("three   \u2003 \t spaces and a line\n"),
    passage("", ""),
    passage("“quotes” 'and' \"others\"", '"Q"'),
    passage("Québec 北京 ☃ e\u0301 \u200b"),
    passage("</s> ends a text, and <mask> is one's"),
]
ODD_QUESTIONS = ["", "what?", "  why  so? ", "…in Québec 北京 ☃?", '"x', "</s>", "'s", "/ /"]


@pytest.mark.parametrize("make", [bart_tokenizer, t5_tokenizer])
@pytest.mark.parametrize(
    ("prefix", "title_separator", "doc_separator"),
    [("", " / ", " // "), ("answer: ", ": ", " | "), ("x", "", "   ?")],
)
@pytest.mark.parametrize("max_length", [512, 64, 24])
def test_contexts_of_kept_tokens_are_those_of_whole_texts(
    make: MakeTokenizer,
    prefix: str,
    title_separator: str,
    doc_separator: str,
    max_length: int,
) -> None:
    passages = [*quickstart_passages(150), *ODD]
    questions = [*quickstart_questions(40), *ODD_QUESTIONS]
    tokenizer = make([f"{one.title} {one.text}" for one in passages])
    builder = ContextBuilder(tokenizer, max_length, prefix, title_separator, doc_separator)
    found = [[*passages[place :: len(questions)], None] for place in range(len(questions))]

    tokens = map(np.array, builder.heads(passages))
    heads = dict(zip(passages, tokens, strict=True))
    joined = builder.join(questions, [[heads.get(one) for one in row] for row in found])
    whole = builder.build(questions, found)

    lengths = whole.attention_mask.sum(dim=-1)
    assert (lengths == max_length).any() == (max_length < 512)
    assert torch.equal(joined.input_ids, whole.input_ids)
    assert torch.equal(joined.attention_mask, whole.attention_mask)


def test_a_tokenizer_that_reads_across_spaces_keeps_no_tokens_of_passages() -> None:
    builder = ContextBuilder(across_spaces_tokenizer(), 64)

    with pytest.raises(InseparableError, match="a question differently after passage '1'"):
        builder.heads([passage("a. b.")])


@pytest.mark.parametrize("separator", ["// ", " ", "", " \n"])
def test_without_a_space_between_them_passages_depend_on_questions(
    builder: ContextBuilder, separator: str
) -> None:
    joined = replace(builder, doc_separator=separator)

    with pytest.raises(InseparableError, match="does not begin with a space before other"):
        joined.heads([passage("text")])
    assert joined.texts(["why?"], [[passage("text ")]]) == [
        f"Baba - Geography / text {separator}why?".replace("  ", " ")
    ]
    (ids,) = joined.build(["why?"], [[passage("word " * 100)]]).input_ids
    assert len(ids) == 48
    assert joined.tokenizer.decode(ids, skip_special_tokens=True).endswith("why?")


def test_questions_and_their_passages_come_in_equal_numbers(builder: ContextBuilder) -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        builder.build(["one", "two"], [[None]])
