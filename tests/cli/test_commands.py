"""Commands called in this process: what they print, and what they refuse."""

import json
from pathlib import Path

import pytest

from ragsearch.cli.app import app
from ragsearch.cli.printing import cell, print_pairs, print_table, progress_bar
from ragsearch.errors import BadInputError, ClusterUnavailableError
from ragsearch.search.record import SearchRecord, Status, TrialRecord


def call(*words) -> None:
    """Call a command as the command line does, but let its errors through."""
    app([str(word) for word in words], prog_name="ragsearch", standalone_mode=False)


@pytest.fixture
def search(tmp_path) -> SearchRecord:
    """A search of three trials, the last of which failed, in `tmp_path/runs`."""
    folder = tmp_path / "runs/kb-1"
    folder.mkdir(parents=True)

    def epoch(number: int, em: float) -> dict[str, float]:
        return {"epoch": number, "val/em": em, "val/f1": em, "val/nll": 1.0}

    trials = [
        TrialRecord(0, {"optim.learning_rate": 3e-5}, Status.FINISHED, [epoch(1, 0.25)]),
        TrialRecord(1, {"optim.learning_rate": 1e-4}, Status.STOPPED_EARLY, [epoch(1, 0.5)]),
        TrialRecord(2, {"optim.learning_rate": 9e-1}, Status.FAILED, reason="diverged"),
    ]
    record = SearchRecord(
        folder, "kb", "val/em", "max", {}, "sqlite:////tmp/m.db", Status.FINISHED,
        trials={trial.trial: trial for trial in trials},
    )  # fmt: skip
    record.save()
    return record


def test_trials_shows_the_best_first_and_what_to_do_next(search, capsys, monkeypatch):
    monkeypatch.chdir(search.folder.parent.parent)

    call("trials")

    shown = capsys.readouterr().out
    rows = [line.split()[0] for line in shown.splitlines() if line.strip()]
    assert rows[2:5] == ["1", "0", "2"]
    assert "best    trial 1, val/em 0.5; the baseline has 0.25" in shown
    assert "look    mlflow ui --backend-store-uri sqlite:////tmp/m.db" in shown
    assert "export  ragsearch export kb-1 --to best" in shown


def test_a_search_elsewhere_is_exported_by_its_folder(search, capsys):
    call("trials", "kb-1", "--output", search.folder.parent)

    assert f"export  ragsearch export {search.folder} --to best" in capsys.readouterr().out


def test_a_search_without_a_result_says_only_how_it_stands(search, capsys):
    search.trials = {2: search.trials[2]}
    search.save()

    call("trials", search.folder)

    shown = capsys.readouterr().out
    assert "search  kb-1, finished" in shown
    assert "best " not in shown


def test_trials_as_json_has_the_baseline_first(search, capsys):
    call("trials", search.folder, "--json")

    told = json.loads(capsys.readouterr().out)
    assert told["search"] == "kb-1"
    assert [trial["trial"] for trial in told["trials"]] == [0, 1, 2]
    assert told["trials"][1]["metrics"]["val/em"] == 0.5


def test_an_index_over_a_corpus_is_built_and_described(tiny, tmp_path, capsys):
    folder = tmp_path / "index"

    call("index", "build", tiny.corpus, "--encoder", tiny.context_encoder, "--to", folder)
    built = capsys.readouterr().out
    call("index", "info", folder, "--json")

    told = json.loads(capsys.readouterr().out)
    assert told["n_passages"] > 0
    assert told["fingerprint"] in built
    assert "index.faiss" in built


def test_an_index_in_shards_tells_which_passages_are_where(tiny, tmp_path, capsys):
    folder = tmp_path / "index"
    words = (tiny.corpus, "--encoder", tiny.context_encoder, "--shards", "2", "--to", folder)

    call("index", "build", *words)
    call("index", "info", folder)

    shown = capsys.readouterr().out
    assert "passages 0 to 19 (index-0-of-2.faiss), passages 20 to 39" in shown


def test_the_indexes_of_a_space_file_are_built_under_their_fingerprints(tiny, tmp_path, capsys):
    call("init", tmp_path)
    overrides = [
        f"-oindexes.words100.corpus={tiny.corpus}",
        f"-oindexes.words100.encoder={tiny.context_encoder}",
        f"-otrial.model.question_encoder={tiny.question_encoder}",
    ]

    output = tmp_path / "out"
    call("index", "build", tmp_path / "space.yaml", *overrides, "--output", output)

    (folder,) = (output / "indexes").iterdir()
    shown = capsys.readouterr().out
    assert f"folder               {folder}" in shown
    assert folder.name in shown.split("fingerprint ")[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["space.yaml", "--words", "10"], "--words: is for a corpus"),
        (
            ["kb.jsonl", "--index", "a", "-o", "a=1"],
            "--index: is for a space file\n--override:",
        ),
        (["kb.jsonl"], "--encoder: is missing"),
        (["kb.jsonl", "--encoder", "x", "--pooling", "maxx"], "--pooling: must be one of"),
        (
            ["kb.jsonl", "--encoder", "x", "--words", "5", "--overlap", "5"],
            "--words and --overlap: overlap 5 must be smaller than words 5",
        ),
    ],
)
def test_index_build_refuses_options_that_do_not_fit(words, complaint):
    with pytest.raises(BadInputError, match=complaint):
        call("index", "build", *words)


def test_one_folder_is_not_for_two_indexes(tmp_path):
    call("init", tmp_path)
    space = tmp_path / "space.yaml"
    words50 = "\n  # words50:", "\n  words50:"
    text = space.read_text().replace(*words50)
    head, tail = text.split(words50[1])
    space.write_text(head + words50[1] + tail.replace("\n  #   ", "\n    ", 3))

    with pytest.raises(BadInputError, match="has 2 indexes; choose one with --index"):
        call("index", "build", space, "--to", tmp_path / "index")
    with pytest.raises(
        BadInputError, match="has no index 'words7'; there are: words100, words50"
    ):
        call("index", "build", space, "--index", "words7")


@pytest.mark.parametrize("words", [["stop"], ["stop", "wiki", "--all"]])
def test_pool_stop_wants_a_name_or_all(words):
    with pytest.raises(BadInputError, match="give the name of a pool, or --all"):
        call("pool", *words)


@pytest.mark.ray
def test_pools_of_a_cluster_that_is_not_there_are_unavailable():
    with pytest.raises(ClusterUnavailableError, match=r"127\.0\.0\.1:1"):
        call("pool", "ls", "--address", "127.0.0.1:1")


def test_values_are_written_as_a_person_would():
    assert [cell(value) for value in (None, True, False, 0.00012345, 7, "x")] == [
        "", "yes", "no", "0.0001234", "7", "x",
    ]  # fmt: skip


def test_a_table_in_a_pipe_cuts_nothing_off(capsys):
    long = "a passage of many words " * 20

    print_table(("weight", "text"), [(0.5, long)])
    print_pairs({"em": 0.5, "recall_at_5": 1})

    shown = capsys.readouterr().out
    assert long.strip() in shown
    assert shown.endswith("em           0.5\nrecall_at_5  1\n")


def test_progress_leaves_stdout_alone(capsys):
    with progress_bar("passages") as report:
        report(1, 2)

    assert capsys.readouterr().out == ""


def test_export_without_a_search_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="no search here"):
        call("export", "--to", tmp_path / "best", "--output", tmp_path)


@pytest.mark.parametrize(
    "words", [["ask", "nope", "Why?"], ["eval", "nope", "--data", __file__]]
)
def test_a_folder_that_is_no_bundle_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"question": "Why?", "answers": ["so"]}\n')

    with pytest.raises(BadInputError, match="nope"):
        call(*[str(Path("q.jsonl")) if word == __file__ else word for word in words])


def predictions(bundle: str, said: str) -> dict[str, object]:
    """A row as `eval` writes it, without retrieval."""
    return {
        "bundle": bundle, "id": "1", "question": "Where?", "answers": ["in the sea"],
        "depth": 0, "passages": [], "prediction": said, "nll": 2.0, "n_tokens": 4,
    }  # fmt: skip


def test_predictions_of_several_bundles_are_scored_side_by_side(tmp_path, capsys):
    rows = [predictions("best", "in sea"), predictions("other", "sea")]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    call("score", tmp_path / "said.jsonl")
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    call("score", tmp_path / "said.jsonl", "--json")

    told = json.loads(capsys.readouterr().out)["rows"]
    assert told[0] == {
        "bundle": "best", "em": 1.0, "f1": 1.0, "rouge_l": 0.8, "nll": 0.5, "n": 1,
    }  # fmt: skip
    assert table[0] == ["bundle", "em", "f1", "rouge_l", "nll", "n"]
    assert [line[0] for line in table[2:]] == ["best", "other"]
    assert table[2][1:] == ["1", "1", "0.8", "0.5", "1"]


def test_a_table_has_the_scores_of_retrieval_of_whichever_bundle_has_some(tmp_path, capsys):
    passage = {"id": "1", "source_id": "1", "title": "t", "text": "x", "doc_score": 2.0}
    found = {"depth": 1, "passages": [{**passage, "weight": 1.0}]}
    rows = [predictions("closed", "sea"), {**predictions("open", "sea"), **found}]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    call("score", tmp_path / "said.jsonl")

    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    names, _, closed, other = lines
    assert names[5:] == [
        "recall_at_1", "mrr_at_1", "unique_passage_ratio", "top1_concentration",
        "prior_entropy", "n",
    ]  # fmt: skip
    assert other[5:] == ["0", "0", "1", "1", "0", "1"]
    assert closed[-1] == "1"
    assert len(closed) < len(other)


def test_predictions_of_one_bundle_are_scored_in_pairs(tmp_path, capsys):
    (tmp_path / "said.jsonl").write_text(json.dumps(predictions("best", "sea")))

    call("score", tmp_path / "said.jsonl")

    assert "rouge_l  0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--k", "3"], "--k: is for --mode retrieval; drop it"),
        (["--mode", "retrieval", "--no-retrieval"], "--no-retrieval: leaves nothing to score"),
        (["--predictions", "kept.jsonl"], "kept.jsonl: exists already; choose another file"),
        (["--gold-format", "ans"], "--gold-format: is 'ans', which needs a file of its own"),
        (["--gold", "gone.txt"], "gone.txt: no such file"),
        (["--mode", "retrieval", "--gold", "q.jsonl"], "nope: no manifest.json here"),
    ],
)
def test_eval_refuses_what_does_not_fit_before_it_loads_a_model(
    words, complaint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("kept.jsonl").touch()
    Path("q.jsonl").write_text('{"question": "Why?", "answers": ["so"]}\n')

    with pytest.raises(BadInputError, match=complaint):
        call("eval", "nope", "--data", "q.jsonl", *words)
