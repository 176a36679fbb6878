import subprocess
import sys
from pathlib import Path

import pytest

from ragsearch.data import Inputs, check_inputs
from ragsearch.errors import BadInputError
from ragsearch.spec import load_spec
from tests.spec.spaces import passages, questions, write_jsonl, write_space


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_space(tmp_path)


def mistakes_of(path: Path, *overrides: str) -> list[str]:
    spec = load_spec(path, overrides)
    with pytest.raises(BadInputError) as caught:
        check_inputs(spec)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_the_counts_of_good_files_are_given(path: Path):
    # four texts of five words: two passages each of three words that share one
    assert check_inputs(load_spec(path)) == Inputs(3, 2, None, {"one": 4, "two": 8}, ())


def test_the_test_file_is_read_too(path: Path):
    write_jsonl(path.with_name("test.jsonl"), questions("test", 4))

    assert check_inputs(load_spec(path, ["data.test=test.jsonl"])).n_test == 4


def test_limits_are_counted_and_a_short_file_is_warned_of(path: Path):
    inputs = check_inputs(load_spec(path, ["data.n_train=2", "data.n_val=9"]))

    assert (inputs.n_train, inputs.n_val) == (2, 2)
    warning = f"data.n_val is 9, but {path.with_name('val.jsonl')} holds 2 questions"
    assert inputs.warnings == (warning,)


def test_questions_that_are_trained_on_are_warned_of(path: Path):
    rows = [*questions("val", 1), {"question": "TRAIN  1?", "answers": "1"}]
    write_jsonl(path.with_name("val.jsonl"), rows)

    [warning] = check_inputs(load_spec(path)).warnings
    assert warning == (
        f"1 questions of {path.with_name('val.jsonl')} are trained on, such as 'TRAIN  1?'"
    )


def test_mistakes_of_all_files_are_told_at_once(path: Path):
    write_jsonl(path.with_name("train.jsonl"), [{"question": "Q"}])
    write_jsonl(path.with_name("val.jsonl"), [{"answers": "A"}])
    write_jsonl(path.with_name("kb.jsonl"), [{"id": "a"}])

    found = [line.rpartition("/")[2] for line in mistakes_of(path)]
    assert found == [
        "train.jsonl:1: answers: is missing; this row has question",
        "val.jsonl:1: question: is missing; this row has answers",
        "kb.jsonl:1: text: is missing; this row has id",
    ]


def test_more_passages_than_the_index_holds_are_refused_where_they_are_asked(path: Path):
    write_jsonl(path.with_name("kb.jsonl"), [{"id": f"p{i}", "text": "x"} for i in range(3)])
    overrides = ["trial.retrieval.n_docs=5", "space.retrieval.n_docs={int: [1, 4]}"]

    end = "holds 3; ask for fewer"
    assert mistakes_of(path, *overrides) == [
        f"-o trial.retrieval.n_docs: asks for 5 passages, but index 'one' {end}",
        f"-o space.retrieval.n_docs: asks for 4 passages, but index 'one' {end}",
        f"-o space.retrieval.n_docs: asks for 4 passages, but index 'two' {end}",
    ]


def test_an_index_of_the_space_must_hold_what_the_baseline_asks(path: Path):
    small = write_jsonl(path.with_name("small.jsonl"), passages(3)[:1])
    write_jsonl(path.with_name("train.jsonl"), questions("train", 1))
    write_jsonl(path.with_name("val.jsonl"), questions("val", 1))
    text = path.read_text().replace("  retrieval.n_docs: {int: [1, 3]}\n", "")
    path.write_text(text)
    overrides = [f"indexes.two.corpus={small}", "indexes.two.chunk.words=9"]

    what = "asks for 2 passages, but index 'two' holds 1; ask for fewer"
    assert mistakes_of(path, *overrides) == [f"{path}:26: space.retrieval.index: {what}"]


def test_a_text_over_the_limit_is_refused_unless_it_is_cut(path: Path):
    rows = [*passages(4), {"id": "long", "text": "w " * 734}]
    corpus = write_jsonl(path.with_name("kb.jsonl"), rows)

    assert mistakes_of(path) == [
        f"{corpus}:5: text: has 734 words, over the limit of 400; set indexes.one.chunk"
    ]
    inputs = check_inputs(load_spec(path, ["indexes.one.chunk={words: 100}"]))
    assert inputs.n_passages["one"] == 4 + 8


def test_gold_passages_that_the_corpus_lacks_are_refused(path: Path):
    rows = [{"question": "Q", "answers": "A", "passage_ids": ["p1", "p9"]}]
    val = write_jsonl(path.with_name("val.jsonl"), rows)

    what = f"'p9' is no id in {path.with_name('kb.jsonl')}; correct or drop it"
    assert mistakes_of(path) == [f"{val}:1: passage_ids: {what}"]


def test_a_corpus_of_a_format_unknown_is_refused(path: Path):
    corpus = path.with_name("kb.jsonl").rename(path.with_name("kb.json"))
    overrides = [f"indexes.{name}.corpus=kb.json" for name in ("one", "two")]

    assert mistakes_of(path, *overrides) == [
        f"{corpus}: has suffix '.json'; supported are .jsonl, .tsv, .csv, .parquet"
    ]


def test_loading_and_checking_imports_nothing_heavy(path: Path):
    code = f"""
import sys
import ragsearch, ragsearch.spec, ragsearch.data
early = {{"pyarrow", "numpy"}} & set(sys.modules)
ragsearch.data.check_inputs(ragsearch.spec.load_spec({str(path)!r}))
heavy = {{"torch", "ray", "transformers", "mlflow", "faiss", "datasets"}} & set(sys.modules)
print(sorted(early), sorted(heavy))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert result.stdout == "[] []\n"
