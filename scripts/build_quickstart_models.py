"""Build the quickstart models: a DPR pair and a tiny T5, trained on training countries only.

In: `ragsearch/quickstart/data`. Out: `question_encoder/`, `context_encoder/` and `generator/`,
each with its tokenizer, loadable by stock Transformers. Seeded. Each part takes about four
minutes on one GPU (they may run side by side) and some hours on a CPU, where fewer steps still
give usable models.

    python scripts/build_quickstart_models.py --out ragsearch/quickstart/models
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from quickstart_augment import Material, read_material
from quickstart_reader import ReaderRecipe, new_reader, train_reader
from quickstart_retriever import RetrieverRecipe, new_pair, train_pair, word_weights
from quickstart_tokenizers import for_contexts, text_of, train_bpe, train_wordpiece
from transformers import T5ForConditionalGeneration

QUICKSTART = Path(__file__).parents[1] / "ragsearch" / "quickstart"


def main() -> None:
    """Train what was asked for and save it."""
    arguments = _parse()
    device = torch.device(arguments.device)
    material = read_material(arguments.data)
    lines = text_of(arguments.data, material)
    if arguments.part in {"retriever", "all"}:
        build_retriever(arguments, material, lines, device)
    if arguments.part in {"reader", "all"}:
        build_reader(arguments, material, lines, device)


def build_retriever(
    arguments: argparse.Namespace, material: Material, lines: list[str], device: torch.device
) -> None:
    """Train and save question and context encoder with their tokenizers."""
    recipe = RetrieverRecipe(
        n_steps=arguments.retriever_steps,
        natural_share=arguments.natural_share,
        seed=RetrieverRecipe.seed + arguments.seed,
    )
    recipe = replace(recipe, n_examples=min(recipe.n_examples, 128 * recipe.n_steps))
    question_tokenizer = train_wordpiece(lines)
    context_tokenizer = for_contexts(question_tokenizer)
    pair = new_pair(recipe, word_weights(lines, question_tokenizer))
    train_pair(pair, material, (question_tokenizer, context_tokenizer), recipe, device)
    pair.question.save_pretrained(arguments.out / "question_encoder")
    pair.context.save_pretrained(arguments.out / "context_encoder")
    question_tokenizer.save_pretrained(arguments.out / "question_encoder")
    context_tokenizer.save_pretrained(arguments.out / "context_encoder")


def build_reader(
    arguments: argparse.Namespace, material: Material, lines: list[str], device: torch.device
) -> None:
    """Train and save the generator with its tokenizer."""
    recipe = ReaderRecipe(
        n_steps=arguments.reader_steps,
        n_layers=arguments.layers,
        learning_rate=arguments.reader_rate,
        wrong_share=arguments.wrong_share,
        n_padded_steps=arguments.padded_steps,
        seed=ReaderRecipe.seed + arguments.seed,
    )
    n_shown = 128 * recipe.n_steps + 64 * recipe.n_padded_steps
    recipe = replace(recipe, n_examples=min(recipe.n_examples, n_shown))
    tokenizer = train_bpe(lines)
    if arguments.reader_from:
        model = T5ForConditionalGeneration.from_pretrained(arguments.reader_from)
        recipe = replace(recipe, n_steps=0)
    else:
        model = new_reader(recipe, len(tokenizer))
    train_reader(model, material, (tokenizer, train_wordpiece(lines)), recipe, device)
    model.save_pretrained(arguments.out / "generator")
    tokenizer.save_pretrained(arguments.out / "generator")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=QUICKSTART / "data")
    parser.add_argument("--out", type=Path, default=QUICKSTART / "models")
    parser.add_argument("--part", choices=("all", "retriever", "reader"), default="all")
    parser.add_argument("--seed", type=int, default=0, help="added to the recipes' seeds")
    parser.add_argument("--retriever-steps", type=int, default=RetrieverRecipe.n_steps)
    parser.add_argument("--natural-share", type=float, default=RetrieverRecipe.natural_share)
    parser.add_argument("--reader-steps", type=int, default=ReaderRecipe.n_steps)
    parser.add_argument("--padded-steps", type=int, default=ReaderRecipe.n_padded_steps)
    parser.add_argument("--reader-from", type=Path, help="a generator to give the last steps")
    parser.add_argument("--reader-rate", type=float, default=ReaderRecipe.learning_rate)
    parser.add_argument("--layers", type=int, default=ReaderRecipe.n_layers)
    parser.add_argument("--wrong-share", type=float, default=ReaderRecipe.wrong_share)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
