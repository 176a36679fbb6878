"""The tables for users of the original scripts: whole, and true of the keys and commands."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from ragsearch.cli.app import app
from ragsearch.spec.keys import field_at, section_at
from ragsearch.spec.schema import SpaceFile

PAGE = Path(__file__).parent.parent / "docs" / "from-finetune-rag.md"
FLAGS = {
    "finetune_rag.py": """
        model_name_or_path model_type config_name tokenizer_name cache_dir encoder_layerdrop
        decoder_layerdrop dropout attention_dropout learning_rate lr_scheduler adafactor
        weight_decay adam_epsilon warmup_steps num_workers num_train_epochs train_batch_size
        gradient_accumulation_steps eval_batch_size max_grad_norm label_smoothing
        max_source_length max_target_length val_max_target_length test_max_target_length n_train
        n_val n_test prefix early_stopping_patience data_dir output_dir do_train do_predict seed
        fp16 fp16_opt_level n_tpu_cores gpus logger_name profile index_name passages_path
        index_path use_dummy_dataset distributed_retriever num_retrieval_workers ray-address
        distributed-port
    """,
    "Of the end-to-end variant": """
        end2end context_encoder_name csv_path index_gpus gpu_order shard_dir indexing_freq
    """,
    "eval_rag.py": """
        model_name_or_path model_type evaluation_set gold_data_path gold_data_mode eval_mode k
        n_docs index_name index_path predictions_path recalculate eval_all_checkpoints
        eval_batch_size num_beams max_length min_length print_predictions print_docs
    """,
    "use_own_knowledge_dataset.py": """
        csv_path question rag_model_name dpr_ctx_encoder_model_name output_dir num_proc
        batch_size d m
    """,
    "consolidate_rag_checkpoint.py": """
        model_type dest generator_name_or_path question_encoder_name_or_path
        generator_tokenizer_name_or_path question_encoder_tokenizer_name_or_path
        config_name_or_path
    """,
}
"""The flags of the original scripts."""
KEY = re.compile(r"[a-z_]+(\.[A-Za-z_]+)*")


class Row(NamedTuple):
    """A flag, what it is called here, and what differs."""

    flag: str
    here: str
    differs: str


def tables() -> dict[str, list[Row]]:
    """Rows of the page by heading."""
    found: dict[str, list[Row]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("| `--"):
            flag, default, here, differs = (
                cell.strip() for cell in line.strip("|").split(" |")
            )
            assert default, line
            found.setdefault(heading, []).append(Row(flag.strip("`-"), here, differs))
    return found


TABLES = tables()
ROWS = [
    pytest.param(row, id=f"{heading} --{row.flag}")
    for heading, rows in TABLES.items()
    for row in rows
]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def is_key(path: str) -> bool:
    """Whether a dotted path leads to a key or a section of a space file."""
    parts = tuple(path.split("."))
    return field_at(SpaceFile, parts) is not None or section_at(SpaceFile, parts) is not None


def is_command(words: list[str]) -> bool:
    """Whether the words are a command and options it has."""
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        command = command.commands.get(words.pop(0))
    options = [option for each in getattr(command, "params", ()) for option in each.opts]
    return command is not None and all(word in options for word in words)


def test_every_flag_of_the_original_is_in_its_table():
    found = {heading: sorted(row.flag for row in rows) for heading, rows in TABLES.items()}

    assert found == {heading: sorted(flags.split()) for heading, flags in FLAGS.items()}


@pytest.mark.parametrize("row", ROWS)
def test_what_stands_in_a_row_exists_or_is_said_not_to(row: Row):
    is_promised = row.here.startswith("not yet")

    assert quoted(row.here) or row.here in {"gone", "not yet"}
    for name in quoted(row.here):
        if name.startswith("ragsearch "):
            assert is_command(name.split()[1:]), name
        elif is_promised:
            assert not is_key(name), f"{name} is there now: complete its row in {PAGE.name}"
        else:
            assert is_key(name), name


@pytest.mark.parametrize("row", ROWS)
def test_a_remark_names_only_what_exists(row: Row):
    for name in quoted(row.differs):
        is_promised = f"not yet (`{name}`)" in row.differs
        if name.startswith("ragsearch "):
            assert is_command(name.split()[1:]), name
        elif KEY.fullmatch(name) and "." in name:
            assert is_key(name) != is_promised, name


def test_what_is_gone_says_why():
    gone = [row for rows in TABLES.values() for row in rows if row.here == "gone"]

    assert gone
    assert [row.flag for row in gone if not row.differs] == []


def test_keys_and_commands_that_are_not_there_are_noticed():
    assert is_key("trial.optim.learning_rate")
    assert is_key("indexes.NAME.chunk.words")
    assert not is_key("trial.optim.learning")
    assert is_command(["eval", "--gold"])
    assert not is_command(["eval", "--golden"])
    assert not is_command(["evaluate"])
