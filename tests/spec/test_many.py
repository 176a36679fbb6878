"""Laws over many space files: read and written again, and broken at random."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragsearch.errors import BadInputError
from ragsearch.spec import Spec, load_spec
from tests.spec.spaces import VALID, write_space

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
HEAD, TAIL = VALID[: VALID.index("space:")], VALID[VALID.index("search:") :]
WHOLE = f"""{HEAD}space:
  retriever:
    bundle:
      - {{retrieval.index: one, retrieval.n_docs: 2}}
      - {{retrieval.index: two, retrieval.n_docs: 3}}
  model.freeze_question_encoder: {{choice: [true, false]}}
  optim.question_encoder_lr_ratio:
    {{log: [0.1, 10], when: "not model.freeze_question_encoder"}}
  optim.learning_rate: {{log: [1e-5, 1e-3], step: 10}}
  optim.weight_decay: {{normal: [0.01, 0.005], bounds: [0.0, 0.1]}}
  train.max_epochs: {{int: [3, 9], step: 3}}
  optim.warmup_steps: {{derive: "round(2.5 * train.max_epochs)"}}
constraints:
  - "retrieval.n_docs * optim.effective_batch <= 48"
  - {{metric: val/unique_passage_ratio, min: 0.05}}
try_first:
  - {{retrieval.index: two}}
{TAIL}"""


def again(spec: Spec, folder: Path) -> Spec:
    path = folder / "again.yaml"
    path.write_text(spec.to_yaml(), encoding="utf-8")
    return load_spec(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_space_is_written_and_read_as_the_same(path: Path, tmp_path: Path):
    overrides = []
    if "indexes:\n  wiki:" in path.read_text(encoding="utf-8"):  # its data are the user's
        for key in ("data.train", "data.val", "data.test", "indexes.wiki.corpus"):
            (tmp_path / key).touch()
            overrides.append(f"{key}={tmp_path / key}")
    spec = load_spec(path, overrides)

    assert again(spec, tmp_path).file == spec.file
    assert again(spec, tmp_path).space == spec.space


CONDITIONS = st.sampled_from([
    "optim.weight_decay < 0.5",
    "not model.normalise and 1 < 2 ** 3",
    "model.type in ['rag_token', \"rag_sequence\"]",
    "optim.max_grad_norm == null or true",
])  # fmt: skip
DOMAINS = {
    "regularisation.label_smoothing": st.builds(
        lambda low, n: {"uniform": [low / 64, (low + n) / 64], "step": 1 / 64},
        st.integers(0, 9), st.integers(1, 9),
    ),
    "optim.learning_rate": st.builds(
        lambda low, n: {"log": [low, low * 2.0**n], "step": 2},
        st.floats(1e-9, 1e-3), st.integers(1, 9),
    ),
    "optim.adam_epsilon": st.builds(
        lambda low, width: {"log": [low, low * width]}, st.floats(1e-12, 1), st.floats(1.1, 9)
    ),
    "regularisation.dropout": st.builds(
        lambda mean, deviation: {"normal": [mean, deviation], "bounds": [0.0, 0.5]},
        st.floats(0, 0.5), st.floats(0.01, 3),
    ),
    "decode.num_beams": st.builds(
        lambda low, n, step: {"int": [low, low + n * step], "step": step},
        st.integers(1, 9), st.integers(1, 9), st.integers(1, 9),
    ),
    "model.prefix": st.lists(
        st.text("a${:} \n\x85'", max_size=6), min_size=2, max_size=4, unique=True
    ).map(lambda texts: {"choice": texts}),
    "decode.max_length": st.sets(st.integers(2, 99), min_size=2).map(
        lambda values: {"ordinal": sorted(values)}
    ),
    "train.early_stopping_patience": st.just({"derive": "1 + train.max_epochs // 2"}),
    "pair": st.sets(st.integers(1, 99), min_size=2, max_size=4).map(
        lambda sizes: {
            "bundle": [{"train.batch_size": n, "train.eval_batch_size": 2 * n} for n in sizes]
        }
    ),
}  # fmt: skip
ENTRIES = {
    name: st.tuples(domain, st.none() | CONDITIONS).map(
        lambda two: two[0] | ({"when": two[1]} if two[1] and "derive" not in two[0] else {})
    )
    for name, domain in DOMAINS.items()
}


def escaped(value: object) -> str:
    return json.dumps(value).replace("${", "$${")


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.fixed_dictionaries({}, optional=ENTRIES),
    st.lists(CONDITIONS.map("{} or 1 == 1".format), max_size=2),
)
def test_any_space_is_written_and_read_as_the_same(
    tmp_path: Path, space: dict[str, object], constraints: list[str]
):
    path = tmp_path / "space.yaml"
    if not path.exists():
        write_space(tmp_path)
    written = f"space: {escaped(space)}\nconstraints: {json.dumps(constraints)}\n"
    path.write_text(HEAD + written + TAIL, encoding="utf-8")
    spec = load_spec(path)

    assert {entry.name for entry in spec.space.entries} == space.keys()
    assert again(spec, tmp_path).space == spec.space
    assert again(spec, tmp_path).digest == spec.digest


def mutated(text: str, chance: random.Random) -> str:
    """A space file after one slip of the hand."""
    lines = text.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    line = lines[at]
    place = chance.randrange(len(line))
    sign = chance.choice("[]{}:,.-'\"#&*!|>%@`~ \t0aé$(<=")
    lines[at] = chance.choice([
        "",
        line + line,
        " " + line,
        line.lstrip(),
        line[:place] + line[place + 1 :],
        line[:place] + sign + line[place:],
        line[:place] + sign + line[place + 1 :],
        line[:place] + "\n",
        line.replace(":", ": null #", 1),
    ])  # fmt: skip
    return "".join(lines)


def test_the_file_that_is_mutated_is_right(tmp_path: Path):
    spec = load_spec(write_space(tmp_path, WHOLE))

    assert len(spec.space.entries) == 7
    assert again(spec, tmp_path).digest == spec.digest


@pytest.mark.parametrize("seed", range(10))
def test_a_slip_of_the_hand_is_taken_or_told_in_clear_lines(seed: int, tmp_path: Path):
    """Ten seeds of forty files: four hundred, most of them wrong."""
    path, chance, n_wrong = write_space(tmp_path), random.Random(seed), 0
    for _ in range(40):
        path.write_text(mutated(WHOLE, chance), encoding="utf-8")
        try:
            load_spec(path)
        except BadInputError as error:
            n_wrong += 1
            for mistake in error.mistakes:
                assert mistake.place.startswith(str(path))
                assert mistake.what
                assert "\n" not in str(mistake)

    assert n_wrong >= 15
