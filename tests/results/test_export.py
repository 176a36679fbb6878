import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import (
    AutoTokenizer,
    RagConfig,
    RagRetriever,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)

import ragsearch
from ragsearch.errors import BadInputError
from ragsearch.index.open import open_index
from ragsearch.results.ask import Answerer
from ragsearch.results.bundle import Manifest, open_bundle
from ragsearch.results.export import export_best
from ragsearch.search.record import SearchRecord
from ragsearch.spec import TrialSection
from ragsearch.training.model import load
from tests.results.conftest import BundleOf, SearchOf
from tests.results.searches import KINDS, Settings
from tests.tiny import Tiny

STOCK = {"rag_sequence": RagSequenceForGeneration, "rag_token": RagTokenForGeneration}
QUESTION = "What is the capital of Babex?"


@pytest.fixture
def search(made: SearchOf, tmp_path: Path) -> SearchRecord:
    """Return a search the test may damage."""
    folder = tmp_path / "runs" / "search"
    shutil.copytree(made(Settings()).folder, folder)
    return SearchRecord.load(folder)


def files_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("generator", ["t5", "bart"])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_transformers_opens_the_bundle_with_the_same_weights(
    kind: str, generator: str, made: SearchOf, exported: BundleOf
):
    settings = Settings(kind, generator)
    record, bundle = made(settings), exported(settings)
    ours = load(record.folder / str(record.trials[1].checkpoint)).network.state_dict()

    model, report = STOCK[kind].from_pretrained(bundle.folder, output_loading_info=True)

    found = model.state_dict()
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[name], ours[name]) for name in ours)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.architectures == [STOCK[kind].__name__]


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_the_bundle_carries_both_tokenizers(generator: str, tiny: Tiny, exported: BundleOf):
    tokenizer = RagTokenizer.from_pretrained(exported(Settings(generator=generator)).folder)

    text = "How long is the coastline of Babex? 12 km"
    asked = AutoTokenizer.from_pretrained(tiny.question_encoder)
    written = AutoTokenizer.from_pretrained(getattr(tiny, generator))
    assert tokenizer.question_encoder(text)["input_ids"] == asked(text)["input_ids"]
    assert tokenizer.generator(text)["input_ids"] == written(text)["input_ids"]


def test_the_manifest_pins_everything(made: SearchOf, exported: BundleOf):
    record, bundle = made(Settings()), exported(Settings())
    manifest = Manifest.load(bundle.folder)
    index = open_index(Path(record.indexes["facts"].folder)).manifest

    assert manifest == bundle.manifest
    assert (manifest.search, manifest.trial) == (record.search, 1)
    assert manifest.metrics == record.trials[1].epochs[0]
    assert manifest.configuration["optim"]["learning_rate"] == 0.02
    assert manifest.pooling == "pooler"
    assert manifest.decode == {
        "num_beams": 2, "max_length": 12, "document_temperature": 1.0
    }  # fmt: skip
    assert manifest.index.fingerprint == index.fingerprint
    assert (manifest.index.n_passages, manifest.index.dimension) == (40, 32)
    assert manifest.spec == json.loads((record.folder / "resolved.json").read_text())
    assert manifest.versions.keys() == {
        "ragsearch", "python", "transformers", "torch", "faiss-cpu"
    }  # fmt: skip
    assert manifest.sha256.keys() == files_of(bundle.folder) - {"manifest.json", "README.md"}


def test_the_configuration_of_a_bundle_is_a_plain_trial_section(exported: BundleOf):
    manifest = exported(Settings()).manifest

    trial = TrialSection.model_validate(manifest.configuration)

    assert trial.model_dump(mode="json") == manifest.configuration
    assert trial.retrieval.n_docs == 3


def test_only_what_is_read_is_copied(search: SearchRecord, tmp_path: Path):
    checkpoint = search.folder / str(search.trials[1].checkpoint)
    for strange in ("optimizer.pt", ".metadata.json", "pytorch_model.bin"):
        (checkpoint / strange).write_text("{}")

    bundle = export_best(search.folder, tmp_path / "best")

    files = {name for name in files_of(bundle.folder) if "tokenizer/" not in name}
    assert files == {
        "README.md", "config.json", "generation_config.json", "manifest.json",
        "model.safetensors", "trial.json",
    }  # fmt: skip


def test_the_public_door_exports(search: SearchRecord, tmp_path: Path):
    bundle = ragsearch.export_best(None, tmp_path / "best", output=tmp_path / "runs")

    assert bundle.manifest.search == search.search


def test_another_trial_than_the_best_can_be_chosen(search: SearchRecord, tmp_path: Path):
    bundle = export_best(search.folder, tmp_path / "zero", trial=0)

    assert bundle.manifest.trial == 0
    assert bundle.manifest.metrics["val/em"] == 0.25


def test_an_unknown_trial_is_refused(search: SearchRecord, tmp_path: Path):
    with pytest.raises(BadInputError, match="no trial 7; there are: 0, 1, 2"):
        export_best(search.folder, tmp_path / "best", trial=7)


def test_a_trial_without_a_checkpoint_is_refused(search: SearchRecord, tmp_path: Path):
    with pytest.raises(
        BadInputError,
        match=r"trial 2 saved no checkpoint \(DivergedError: NaN\); choose another",
    ):
        export_best(search.folder, tmp_path / "best", trial=2)


def test_a_search_in_which_every_trial_failed_is_refused(search: SearchRecord, tmp_path: Path):
    del search.trials[0], search.trials[1]
    search.save()

    with pytest.raises(BadInputError, match="no feasible trial reported val/em, so there"):
        export_best(search.folder, tmp_path / "best")
    assert not (tmp_path / "best").exists()


def test_a_checkpoint_that_is_gone_is_refused(search: SearchRecord, tmp_path: Path):
    shutil.rmtree(search.folder / str(search.trials[1].checkpoint))

    with pytest.raises(BadInputError, match="checkpoint of trial 1 is gone"):
        export_best(search.folder, tmp_path / "best")


def test_a_checkpoint_that_vanishes_while_it_is_copied_is_refused(
    search: SearchRecord, tmp_path: Path
):
    checkpoint = search.folder / str(search.trials[1].checkpoint)
    (checkpoint / "late.safetensors").symlink_to(tmp_path / "gone")

    with pytest.raises(BadInputError, match=r"replaced by a better one while it was copied"):
        export_best(search.folder, tmp_path / "best")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_an_index_that_is_gone_is_named(search: SearchRecord, tmp_path: Path):
    text = (search.folder / "search.json").read_text()
    (search.folder / "search.json").write_text(
        text.replace(search.indexes["facts"].folder, "/gone")
    )

    with pytest.raises(BadInputError, match=r"/gone: is no index"):
        export_best(search.folder, tmp_path / "best")


def test_an_occupied_folder_is_refused_and_left_alone(search: SearchRecord, tmp_path: Path):
    to = tmp_path / "best"
    to.mkdir()
    (to / "mine.txt").write_text("mine")

    with pytest.raises(BadInputError, match="best: is not empty; choose another folder"):
        export_best(search.folder, to)
    assert files_of(to) == {"mine.txt"}


def test_a_file_in_the_way_is_refused(search: SearchRecord, tmp_path: Path):
    to = tmp_path / "best"
    to.write_text("mine")

    with pytest.raises(BadInputError, match="best: is a file; give a folder"):
        export_best(search.folder, to)
    assert to.read_text() == "mine"


def test_an_empty_folder_is_filled(search: SearchRecord, tmp_path: Path):
    to = tmp_path / "best"
    to.mkdir()

    export_best(search.folder, to)

    assert open_bundle(to).manifest.trial == 1


def test_a_failed_export_leaves_nothing(search: SearchRecord, tmp_path: Path):
    (search.folder / "resolved.json").unlink()
    before = files_of(tmp_path)

    with pytest.raises(BadInputError, match=r"resolved\.json: cannot be read"):
        export_best(search.folder, tmp_path / "best")
    assert files_of(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_another_index_in_the_place_of_the_searchs_is_refused(
    search: SearchRecord, made: SearchOf, tmp_path: Path
):
    other = made(Settings(encoder="bert")).indexes["facts"].folder
    text = (search.folder / "search.json").read_text()
    mine = search.indexes["facts"].folder
    (search.folder / "search.json").write_text(text.replace(mine, other))

    with pytest.raises(
        BadInputError, match=r"this is index [0-9a-f]{16} but the search used facts"
    ):
        export_best(search.folder, tmp_path / "best")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path):
    with pytest.raises(
        BadInputError, match=r"no manifest\.json here; give a folder written by"
    ):
        open_bundle(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "index": {}}'])
def test_a_damaged_manifest_is_refused(text: str, tmp_path: Path):
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(BadInputError, match="the manifest is damaged"):
        open_bundle(tmp_path)


def test_a_bundle_of_another_format_is_refused(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"format": 2}')

    with pytest.raises(
        BadInputError, match="has format 2 and this version reads 1; export again"
    ):
        open_bundle(tmp_path)


def test_every_damaged_file_of_a_bundle_is_named(exported: BundleOf, tmp_path: Path):
    folder = tmp_path / "best"
    shutil.copytree(exported(Settings()).folder, folder)
    (folder / "config.json").unlink()
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")

    with pytest.raises(BadInputError) as refused:
        open_bundle(folder)
    assert str(refused.value) == (
        f"{folder}/config.json: this file of the bundle is missing; export the trial again\n"
        f"{folder}/model.safetensors: this file is not the one that was exported; "
        "export the trial again"
    )


def test_a_card_that_someone_edited_is_no_damage(exported: BundleOf, tmp_path: Path):
    folder = tmp_path / "best"
    shutil.copytree(exported(Settings()).folder, folder)
    (folder / "README.md").write_text("# Our model")

    assert open_bundle(folder).manifest.trial == 1


def test_the_card_opens_with_front_matter_and_compares_with_the_baseline(exported: BundleOf):
    card = (exported(Settings()).folder / "README.md").read_text()

    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert "retrieval-augmented-generation" in front["tags"]
    assert "| val/em | 0.5000 | 0.2500 |" in card
    assert str(Path.home()) not in card
    assert "/tmp" not in card


@pytest.mark.parametrize("generator", ["t5", "bart"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_the_card_runs_and_gives_our_answer(
    kind: str, generator: str, exported: BundleOf, capsys: pytest.CaptureFixture[str]
):
    bundle = exported(Settings(kind, generator))
    answer = Answerer(bundle.folder).ask(QUESTION)
    card = (bundle.folder / "README.md").read_text().replace("DIR", str(bundle.folder))
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    loading, asking, *rest = blocks
    mending = [block for block in rest if "mended" in block]
    names: dict[str, object] = {"contexts": answer.contexts, "doc_scores": answer.doc_scores}

    exec("\n".join([loading, *mending, asking]), names)

    assert capsys.readouterr().out.strip() == answer.answer
    assert len(mending) == (kind == "rag_sequence")


@pytest.mark.parametrize("kind", KINDS)
def test_stock_retrieval_over_the_exported_index_finds_the_same_passages(
    kind: str, exported: BundleOf, capsys: pytest.CaptureFixture[str]
):
    bundle = exported(Settings(kind))
    card = (bundle.folder / "README.md").read_text().replace("DIR", str(bundle.folder))
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names: dict[str, object] = {}

    exec("\n".join([blocks[0], blocks[-1].replace("your question", QUESTION)]), names)

    assert capsys.readouterr().out
    ours = Answerer(bundle.folder).ask(QUESTION)
    model, retriever = names["model"], names["retriever"]
    assert isinstance(retriever, RagRetriever)
    vectors = model.question_encoder(names["question"]["input_ids"])[0].detach().numpy()
    _, _, docs = retriever.retrieve(vectors, 3)
    assert docs[0]["title"] == [passage.title for passage in ours.passages]
    assert docs[0]["text"] == [passage.text for passage in ours.passages]


def test_the_exported_configuration_names_the_retriever_within_the_bundle(exported: BundleOf):
    bundle = exported(Settings())

    config = RagConfig.from_pretrained(bundle.folder)

    assert config.index_name == "custom"
    assert (bundle.folder / config.passages_path).is_dir()
    assert (bundle.folder / config.index_path).is_file()


def test_a_retriever_stock_code_cannot_ask_is_refused(made: SearchOf, tmp_path: Path):
    record = made(Settings(encoder="bert"))

    with pytest.raises(
        BadInputError, match="this model has a bert encoder pooled by mean and normalised"
    ):
        export_best(record.folder, tmp_path / "best", hf_retriever=True)
    assert not list(tmp_path.iterdir())
