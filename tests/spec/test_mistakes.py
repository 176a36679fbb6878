# The table below reads better with its long messages split in place:
# ruff: noqa: ISC004
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml

from ragsearch.errors import BadInputError
from ragsearch.spec import ConstraintSection, load_spec
from ragsearch.spec.document import read_document, write_document
from tests.spec.spaces import VALID, write_space

# what stands in the valid file, what to put there, and the one mistake: line, key, what.
# `{dir}` in an expected message is the folder of the file.
MUTATIONS = {
    "unknown top key": ("seed: 3", "sed: 3", 3, "sed: unknown key; did you mean 'seed'?"),
    "unknown key without a near one": (
        "{scheduler: {min: 1, eta: 3}}", "{qqqq: 1}", 30,
        "search.qqqq: unknown key; known are algorithm, startup_trials, population, scheduler",
    ),
    "unknown key in a named index": (
        "    corpus: kb.jsonl\n    encoder", "    corpus: kb.jsonl\n    encodr: x\n    encoder",
        10, "indexes.one.encodr: unknown key; did you mean 'encoder'?",
    ),
    "a sweep over what is trained": (
        "budget: {", "rescore: {optim.learning_rate: {choice: [1, 2]}}\nbudget: {", 31,
        "rescore.optim.learning_rate: needs training again, so no trained model can be tried"
        " with another value; put it under space; what can be swept: decode.num_beams,"
        " decode.max_length, decode.document_temperature, retrieval.n_docs,"
        " retrieval.ef_search, retrieval.nprobe",
    ),
    "a sweep over no key": (
        "budget: {", "rescore:\n  decode.beams: {choice: [1, 2]}\nbudget: {", 32,
        "rescore.decode.beams: is no key of trial that can be swept;"
        " did you mean 'decode.num_beams'?",
    ),
    "a sweep over no list": (
        "budget: {", "rescore: {decode.document_temperature: {log: [0.1, 9]}}\nbudget: {", 31,
        "rescore.decode.document_temperature: needs listed values: choice, ordinal, int, or"
        " uniform with a step",
    ),
    "a sweep over no domain": (
        "budget: {", "rescore: {decode.num_beams: 4}\nbudget: {", 31,
        "rescore.decode.num_beams: must be a domain such as {choice: [1, 2]}, not 4",
    ),
    "a sweep over a value that is refused": (
        "budget: {", "rescore: {decode.num_beams: {int: [0, 2]}}\nbudget: {", 31,
        "rescore.decode.num_beams: holds 0, but trial.decode.num_beams must be at least 1,"
        " not 0",
    ),
    "a sweep over a knob of no index": (
        "budget: {", "rescore: {retrieval.nprobe: {ordinal: [1, 2]}}\nbudget: {", 31,
        "rescore.retrieval.nprobe: index 'one' is Flat, which has no use for it; leave it out,"
        " or build an IVF index",
    ),
    "a sweep without end": (
        "budget: {", "rescore: {decode.max_length: {int: [2, 400]}}\nbudget: {", 31,
        "rescore: has 399 combinations, each a whole validation; leave at most 200",
    ),
    "final without test questions": (
        "budget: {", "final: {top_k: 2}\nbudget: {", 31,
        "final: compares trials on test questions; give data.test, or drop it",
    ),
    "final with a seed twice": (
        "  val: val.jsonl\n",
        "  val: val.jsonl\n  test: val.jsonl\nfinal: {seeds: [1, 1]}\n", 8,
        "final.seeds: has a seed twice; give each once",
    ),
    "final without seeds": (
        "  val: val.jsonl\n", "  val: val.jsonl\n  test: val.jsonl\nfinal: {seeds: []}\n", 8,
        "final.seeds: is empty; give at least one seed, better three",
    ),
    "final by several objectives": (
        "budget: {",
        "objectives: [{metric: val/em}, {metric: val/f1}]\n"
        "rescore: {decode.num_beams: {choice: [1, 2]}}\nbudget: {", 32,
        "rescore: goes by one objective, which is not val/latency_ms_p95; leave it out",
    ),
    "a subset for rungs and no rungs": (
        "{scheduler: {min: 1, eta: 3}}", "{scheduler: {name: none, rung_examples: 9}}", 30,
        "search.scheduler.rung_examples: has no use, as search.scheduler.name is none;"
        " leave it out",
    ),
    "a subset for rungs and several last epochs": (
        "search: {scheduler: {min: 1, eta: 3}}",
        "  train.max_epochs: {choice: [3, 9]}\nsearch: {scheduler: {rung_examples: 9}}", 31,
        "search.scheduler.rung_examples: needs the same last epoch in all trials, as only that"
        " one is validated on all questions; take train.max_epochs out of space, or drop it",
    ),
    "missing key": (
        "  val: val.jsonl\n", "", 4,
        "data.val: is missing; it gives: Questions every trial is compared on",
    ),
    "missing section": (
        "budget: {trials: 4, wall: 8h}\n", "", 1,
        "budget: is missing; it gives: When a search ends: whichever limit comes first",
    ),
    "no shard": (
        "    corpus: kb.jsonl\n    encoder", "    corpus: kb.jsonl\n    shards: 0\n    encoder",
        10, "indexes.one.shards: must be at least 1, not 0",
    ),
    "replicas counted twice": (
        "seed: 3", "pool: {replicas: 2, per_node: 1}", 3,
        "pool: has replicas and per_node; give the one or the other",
    ),
    "missing model": (
        "    generator: models/bart\n", "", 16,
        "trial.model.generator: is missing; it gives: Sequence-to-sequence generator:"
        " a folder or a hub id",
    ),
    "other version": ("version: 1", "version: 2", 1, "version: must be one of 1, not 2"),
    "bad name": (
        "name: kb", "name: my kb", 2,
        "name: must be up to 64 letters, digits and `_ . -`, a letter or digit first,"
        " not 'my kb'",
    ),
    "number where text belongs": ("name: kb", "name: 7", 2, "name: must be text, not 7"),
    "text where a number belongs": (
        "seed: 3", "seed: 'three'", 3, "seed: must be a whole number, not 'three'",
    ),
    "quoted number": ("seed: 3", "seed: '3'", 3, "seed: must be a whole number, not '3'"),
    "boolean where a number belongs": (
        "seed: 3", "seed: true", 3, "seed: must be a whole number, not true",
    ),
    "yes is text": (
        "    encoder: models/encoder\n  two", "    encoder: models/encoder\n"
        "    normalise: yes\n  two", 11,
        "indexes.one.normalise: must be true or false, not 'yes'",
    ),
    "null where a number belongs": (
        "seed: 3", "seed:", 3, "seed: must be a whole number, not null",
    ),
    "fraction where a count belongs": (
        "n_docs: 2", "n_docs: 2.5", 19,
        "trial.retrieval.n_docs: must be a whole number, not 2.5",
    ),
    "not a number": (
        "learning_rate: 1e-4", "learning_rate: .nan", 21,
        "trial.optim.learning_rate: must be a finite number, not nan",
    ),
    "text for a rate": (
        "learning_rate: 1e-4", "learning_rate: fast", 21,
        "trial.optim.learning_rate: must be a number, not 'fast'",
    ),
    "rate of zero": (
        "learning_rate: 1e-4", "learning_rate: 0", 21,
        "trial.optim.learning_rate: must be above 0.0, not 0",
    ),
    "budget of zero": (
        "{trials: 4,", "{trials: 0,", 31, "budget.trials: must be at least 1, not 0",
    ),
    "dropout of one": (
        "{dropout: 0.1}", "{dropout: 1.0}", 23,
        "trial.regularisation.dropout: must be below 1.0, not 1.0",
    ),
    "too many gpus": (
        "budget:", "resources: {per_trial: {gpu: 2}}\nbudget:", 31,
        "resources.per_trial.gpu: must be at most 1.0, not 2",
    ),
    "fewer retries than none": (
        "budget:", "resources: {retries: -1}\nbudget:", 31,
        "resources.retries: must be at least 0, not -1",
    ),
    "workers that share a gpu": (
        "budget:", "resources: {per_trial: {gpu: 0.5, workers: 2}}\nbudget:", 31,
        "resources.per_trial: 2 workers cannot share GPUs (0.5 each); set gpu to 1 or to 0",
    ),
    "wrong literal": (
        "search: {", "search: {algorithm: tpee, ", 30,
        "search.algorithm: must be one of auto, random, grid, qmc, tpe, gp, cma_es, nsga2,"
        " nsga3, bohb, not 'tpee'; did you mean 'tpe'?",
    ),
    "scalar for a section": (
        "budget: {trials: 4, wall: 8h}", "budget: 4", 31,
        "budget: must be a section with keys of its own, not 4",
    ),
    "list for a scalar": (
        "seed: 3", "seed: [3]", 3, "seed: must be a whole number, not a list",
    ),
    "indexes as a list": (
        VALID[VALID.index("indexes:") : VALID.index("trial:")], "indexes: [one]\n", 7,
        "indexes: must be a mapping of names, not a list",
    ),
    "space as a list": (
        VALID[VALID.index("space:") : VALID.index("search:")], "space: [one]\n", 25,
        "space: must be a mapping of names, not a list",
    ),
    "objectives as a word": (
        "budget:", "objectives: em\nbudget:", 31, "objectives: must be a list, not 'em'",
    ),
    "index name with a dot": (
        "  two:\n", "  two:\n    corpus: kb.jsonl\n    encoder: models/encoder\n  t.x:\n", 14,
        "indexes.t.x: a name has up to 64 letters, digits, _ and -, nothing else",
    ),
    "overlap as long as the words": (
        "overlap: 1", "overlap: 3", 13,
        "indexes.two.chunk: overlap 3 must be smaller than words 3; lower it",
    ),
    "wall without a unit": (
        "wall: 8h", "wall: '8'", 31,
        "budget.wall: must be a duration such as 90s, 30m or 8h, not '8'",
    ),
    "wall of nothing": (
        "wall: 8h", "wall: 0h", 31, "budget.wall: must be longer than nothing, not '0h'",
    ),
    "a constraint without bounds": (
        "budget:", "constraints: [{metric: val/em}]\nbudget:", 31,
        "constraints.0: has neither min nor max; give at least one",
    ),
    "a constraint that nothing fulfils": (
        "budget:", "constraints: [{metric: val/em, min: 0.5, max: 0.2}]\nbudget:", 31,
        "constraints.0: has min 0.5 above max 0.2; exchange them",
    ),
    "a constraint on no metric": (
        "budget:", "constraints: [{metric: val/unique, min: 0.5}]\nbudget:", 31,
        "constraints.0.metric: must be one of val/em, val/f1, val/rouge_l, val/nll,"
        " val/recall_at_1, val/recall_at_5, val/recall_at_10, val/mrr_at_10,"
        " val/latency_ms_p95, val/unique_passage_ratio, val/top1_concentration,"
        " val/prior_entropy, val/posterior_entropy, val/hit_overlap,"
        " train/question_encoder_grad_norm,"
        " not 'val/unique'",
    ),
    "a number as a constraint": (
        "budget:", "constraints: [3]\nbudget:", 31,
        "constraints.0: must be a section with keys of its own, not 3",
    ),
    "an objective twice": (
        "budget:", "objectives: [{metric: val/em}, {metric: val/em}]\nbudget:", 31,
        "objectives: names val/em twice; keep one",
    ),
    "no objective": (
        "budget:", "objectives: []\nbudget:", 31,
        "objectives: must hold at least one objective",
    ),
    "a choice with one objective": (
        "budget:", "choose: {within: 0.1}\nbudget:", 31,
        "choose: is for several objectives, and there is one; leave it out",
    ),
    "a choice by no objective": (
        "budget:",
        "objectives: [{metric: val/em}, {metric: val/f1}]\nchoose: {then: val/nll}\nbudget:",
        32,
        "choose.then: must be an objective after the first (val/f1), not 'val/nll'",
    ),
    "latency of several workers": (
        "budget:", "objectives: [{metric: val/em}, {metric: val/latency_ms_p95, goal: min}]\n"
        "resources: {per_trial: {workers: 2}}\nbudget:", 31,
        "objectives.1.metric: val/latency_ms_p95 is measured by one worker, and a trial has 2;",
    ),
    "startup trials of a searcher without": (
        "search: {", "search: {algorithm: random, startup_trials: 3, ", 30,
        "search.startup_trials: has no use, as search.algorithm is random; leave it out",
    ),
    "rungs of nobody": (
        "{min: 1, eta: 3}", "{name: none, eta: 2}", 30,
        "search.scheduler.eta: has no use, as search.scheduler.name is none; leave it out",
    ),
    "pbt with a searcher that learns": (
        "search: {scheduler: {min: 1, eta: 3}}",
        "search: {algorithm: tpe, scheduler: {name: pbt, mutable: [optim.learning_rate]}}", 30,
        "search.algorithm: tpe cannot be combined with pbt, which draws all trials before any"
        " has a result; use random, qmc or auto, or search.scheduler.name asha",
    ),
    "pbt without anything to change": (
        "{min: 1, eta: 3}", "{name: pbt}", 30,
        "search.scheduler.mutable: names nothing that pbt may change while trials run; give",
    ),
    "pbt of another model": (
        "{min: 1, eta: 3}", "{name: pbt, mutable: [retrieval.index]}", 30,
        "search.scheduler.mutable.0: retrieval.index cannot change while a trial runs; of what"
        " varies here can: optim.learning_rate, regularisation.dropout",
    ),
    "pbt of what does not vary": (
        "{min: 1, eta: 3}", "{name: pbt, mutable: [optim.weight_decay]}", 30,
        "search.scheduler.mutable.0: optim.weight_decay does not vary; give it a domain under",
    ),
    "pb2 of a value with steps": (
        "{min: 1, eta: 3}", "{name: pb2, mutable: [regularisation.dropout]}", 30,
        "search.scheduler.mutable.0: pb2 needs a number without steps; give"
        " regularisation.dropout as log or uniform, or use pbt",
    ),
    "bohb without rungs": (
        "search: {scheduler: {min: 1, eta: 3}}",
        "search: {algorithm: bohb, scheduler: {name: none}}", 30,
        "search.algorithm: bohb learns from rungs, which none has not; use hyperband, asha or",
    ),
    "cma_es with several objectives": (
        "search: {", "objectives: [{metric: val/em}, {metric: val/f1}]\n"
        "search: {algorithm: cma_es, ", 31,
        "search.algorithm: cma_es takes one objective, not 2; use tpe, gp, nsga2, nsga3,",
    ),
    "cma_es over one number": (
        "  optim.learning_rate: {log: [1e-5, 1e-3]}\n"
        "  regularisation.dropout: {uniform: [0.0, 0.2], step: 0.1}\nsearch: {",
        "search: {algorithm: cma_es, ", 28,
        "search.algorithm: cma_es needs at least 2 numbers that vary, not 1; use tpe or auto",
    ),
    "a grid without end": (
        "search: {", "search: {algorithm: grid, ", 28,
        "space.optim.learning_rate: has endlessly many values, of which grid cannot try each;",
    ),
    "a grid too large": (
        "  optim.learning_rate: {log: [1e-5, 1e-3]}\n"
        "  regularisation.dropout: {uniform: [0.0, 0.2], step: 0.1}\nsearch: {",
        "  optim.effective_batch: {int: [1, 40000]}\nsearch: {algorithm: grid, ", 29,
        "search.algorithm: grid would have 240000 points; list fewer values, or use random,",
    ),
    "more brackets than rungs": (
        "{min: 1, eta: 3}", "{name: asha, brackets: 3}", 30,
        "search.scheduler.brackets: 3 brackets are more than 1 rungs before epoch 3 can make;"
        " give at most 2",
    ),
    "metric no one reports": (
        "budget:", "objectives:\n  - {metric: val/emm}\nbudget:", 32,
        "objectives.0.metric: must be one of val/em, val/f1, val/rouge_l, val/nll,"
        " val/recall_at_1, val/recall_at_5, val/recall_at_10, val/mrr_at_10,"
        " val/latency_ms_p95, not 'val/emm'; did you mean 'val/em'?",
    ),
    "cluster that is no address": (
        "budget:", "resources: {cluster: there}\nbudget:", 31,
        "resources.cluster: must be local, auto or host:port, not 'there'",
    ),
    "tracking that is no uri": (
        "budget:", "tracking: {uri: mlruns}\nbudget:", 31,
        "tracking.uri: must be a URI such as sqlite:///mlflow.db or http://host:5000,"
        " not 'mlruns'",
    ),
    "blank path": ("train: train.jsonl", "train: ' '", 5, "data.train: is empty; give a value"),
    "key given twice": (
        "seed: 3\n", "seed: 3\nseed: 4\n", 4, "seed: given twice, first in line 3; keep one",
    ),
    "missing data file": (
        "train: train.jsonl", "train: trian.jsonl", 5,
        "data.train: no such file: {dir}/trian.jsonl",
    ),
    "folder for a data file": (
        "train: train.jsonl", "train: models", 5,
        "data.train: is a folder; give a file: {dir}/models",
    ),
    "missing corpus": (
        "  one:\n    corpus: kb.jsonl", "  one:\n    corpus: no.jsonl", 9,
        "indexes.one.corpus: no such file or folder: {dir}/no.jsonl",
    ),
    "missing model folder": (
        "generator: models/bart", "generator: ./nowhere", 18,
        "trial.model.generator: no such model folder: {dir}/nowhere",
    ),
    "misspelt folder beside a folder is no hub id": (
        "generator: models/bart", "generator: models/brat", 18,
        "trial.model.generator: no such model folder: {dir}/models/brat",
    ),
    "unknown baseline index": (
        "{index: one,", "{index: onne,", 19,
        "trial.retrieval.index: no index 'onne'; did you mean 'one'?",
    ),
    "no baseline index among several": (
        "{index: one, n_docs: 2}", "{n_docs: 2}", 19,
        "trial.retrieval.index: must name one of the indexes: one, two",
    ),
    "unknown index in the space": (
        "{choice: [one, two]}", "{choice: [one, tow]}", 26,
        "space.retrieval.index: no index 'tow'; did you mean 'two'?",
    ),
    "first rung after the end": (
        "{min: 1,", "{min: 4,", 30,
        "search.scheduler.min: 4 epochs must not exceed train.max_epochs, which may be 3",
    ),
    "half precision without a gpu": (
        "batch_size: 8}", "batch_size: 8, precision: 16-mixed}", 24,
        "trial.train.precision: 16-mixed needs a GPU; set resources.per_trial.gpu, or use"
        " 32 or bf16-mixed",
    ),
    "attention dropout of a t5 in the space": (
        "space:\n", "space:\n  model.generator: {choice: [models/bart, models/t5]}\n"
        "  regularisation.attention_dropout: {choice: [null, 0.1]}\n", 27,
        "space.regularisation.attention_dropout: generator {dir}/models/t5 is a t5, which"
        " has none; leave it out",
    ),
    "layers of a t5 to drop": (
        "models/bart\n  retrieval: {index: one, n_docs: 2}\n  optim:\n"
        "    learning_rate: 1e-4\n    effective_batch: 16\n  regularisation: {",
        "models/t5\n  retrieval: {index: one, n_docs: 2}\n  optim:\n"
        "    learning_rate: 1e-4\n    effective_batch: 16\n"
        "  regularisation: {encoder_layerdrop: 0.1, ", 23,
        "trial.regularisation.encoder_layerdrop: generator {dir}/models/t5 is a t5, which has"
        " none; leave it out",
    ),
    "layers to drop of a t5 in the space": (
        "space:\n", "space:\n  model.generator: {choice: [models/bart, models/t5]}\n"
        "  regularisation.decoder_layerdrop: {uniform: [0.0, 0.2]}\n", 27,
        "space.regularisation.decoder_layerdrop: generator {dir}/models/t5 is a t5, which"
        " has none; leave it out",
    ),
    "epsilon of adam for adafactor": (
        "learning_rate: 1e-4\n", "learning_rate: 1e-4\n    optimizer: adafactor\n"
        "    adam_epsilon: 1e-6\n", 23,
        "trial.optim.adam_epsilon: has no use, as optim.optimizer is 'adafactor'; leave it out",
    ),
    "learning rate of a frozen encoder": (
        "    generator: models/bart\n  retrieval: {index: one, n_docs: 2}\n  optim:\n",
        "    generator: models/bart\n    freeze_question_encoder: true\n"
        "  retrieval: {index: one}\n  optim:\n    question_encoder_lr_ratio: 0.1\n", 22,
        "trial.optim.question_encoder_lr_ratio: has no use, as model.freeze_question_encoder is"
        " true; leave it out",
    ),
    "layers of a frozen generator to drop": (
        "    generator: models/bart\n",
        "    generator: models/bart\n    freeze_generator: true\n", 30,
        "space.regularisation.dropout: has no use, as model.freeze_generator is true;"
        " leave it out",
    ),
    "scale of adapters that are none": (
        "    generator: models/bart\n",
        "    generator: models/bart\n    lora: {alpha: 8}\n", 19,
        "trial.model.lora.alpha: has no use, as model.lora.rank is null; leave it out",
    ),
    "cycles without restarts": (
        "space:\n", "space:\n  optim.schedule: {choice: [linear, cosine]}\n"
        "  optim.n_cycles: {int: [1, 3]}\n", 27,
        "space.optim.n_cycles: has no use, as optim.schedule is 'polynomial' or 'linear'"
        " or 'cosine'; leave it out",
    ),
    "warm-up said twice": (
        "    learning_rate: 1e-4\n", "    learning_rate: 1e-4\n    warmup_steps: 10\n"
        "    warmup_share: 0.1\n", 20,
        "trial.optim: has warmup_steps and warmup_share; give the one or the other",
    ),
    "warm-up said in trial and space": (
        "    learning_rate: 1e-4\n    effective_batch: 16\n"
        "  regularisation: {dropout: 0.1}\n  train: {max_epochs: 3, batch_size: 8}\nspace:\n",
        "    learning_rate: 1e-4\n    warmup_steps: 10\n"
        "  train: {max_epochs: 3}\nspace:\n  optim.warmup_share: {uniform: [0.0, 0.2]}\n", 25,
        "space.optim.warmup_share: holds 0.2, but trial.optim has warmup_steps and"
        " warmup_share; give the one or the other",
    ),
    "warm-up varied twice": (
        "space:\n", "space:\n  optim.warmup_steps: {int: [0, 10]}\n"
        "  optim.warmup_share: {uniform: [0.0, 0.2]}\n", 26,
        "space.optim.warmup_steps: holds 1 and 0.2, but trial.optim has warmup_steps and"
        " warmup_share; give the one or the other",
    ),
    "test questions counted without a file": (
        "  val: val.jsonl\n", "  val: val.jsonl\n  n_test: 3\n", 4,
        "data: has n_test and no test; give the file or drop n_test",
    ),
    "nothing to train": (
        VALID[VALID.index("    generator:") : VALID.index("search:")],
        "    generator: models/bart\n    freeze_generator: true\n"
        "    freeze_question_encoder: true\n  retrieval: {index: one}\n", 16,
        "trial.model: has freeze_question_encoder and freeze_generator, which leaves nothing"
        " to train; drop one",
    ),
    "nothing to train in some trials": (
        "space:\n", "space:\n  model.freeze_generator: {choice: [true, false]}\n"
        "  model.freeze_question_encoder: {choice: [true, false]}\n", 27,
        "space.model.freeze_question_encoder: holds true and true, but trial.model has"
        " freeze_question_encoder and freeze_generator, which leaves nothing to train; drop",
    ),
    "nothing to train without retrieval": (
        "space:\n", "space:\n  model.type: {choice: [rag_token, closed_book]}\n"
        "  model.freeze_generator: {choice: [true, false]}\n", 27,
        "space.model.freeze_generator: holds true and 'closed_book', but trial.model has"
        " freeze_generator and type closed_book, which leaves nothing to train; drop one",
    ),
    "recall of a trial without retrieval": (
        "space:\n", "objectives: [{metric: val/recall_at_5}]\nspace:\n"
        "  model.type: {choice: [rag_sequence, closed_book]}\n", 25,
        "objectives.0.metric: a closed_book trial has no val/recall_at_5; take another, or"
        " model.type without it",
    ),
    "no index to retrieve from": (
        VALID[VALID.index("indexes:") : VALID.index("trial:")], "indexes: {}\n", 7,
        "indexes: names no index to find passages in; name at least one",
    ),
    "no question encoder": (
        "    question_encoder: models/encoder\n", "", 16,
        "trial.model.question_encoder: is missing; it gives: a folder or a hub id of the"
        " encoder whose vectors passages are searched with",
    ),
    "space path that is none": (
        "space:\n", "space:\n  optim.lr: {log: [1e-5, 1e-3]}\n", 26,
        "space.optim.lr: is no key of trial that can vary; did you mean 'optim.learning_rate'?",
    ),
    "space path with trial in front": (
        "  retrieval.n_docs: {int", "  trial.retrieval.n_docs: {int", 27,
        "space.trial.retrieval.n_docs: is no key of trial that can vary;"
        " did you mean 'retrieval.n_docs'?",
    ),
    "space path in another section": (
        "  retrieval.n_docs: {int", "  decode.dropout: {int", 27,
        "space.decode.dropout: is no key of trial that can vary;"
        " did you mean 'regularisation.dropout'?",
    ),
    "misspelt domain": (
        "{log: [1e-5, 1e-3]}", "{logg: [1e-5, 1e-3]}", 28,
        "space.optim.learning_rate.logg: unknown key; did you mean 'log'?",
    ),
    "domain upside down": (
        "{log: [1e-5, 1e-3]}", "{log: [1e-3, 1e-5]}", 28,
        "space.optim.learning_rate: low 0.001 must be below high 1e-05; a fixed value goes"
        " in trial",
    ),
    "value the trial refuses": (
        "{uniform: [0.0, 0.2], step: 0.1}", "{uniform: [0, 1.2]}", 29,
        "space.regularisation.dropout: holds 1.2, but trial.regularisation.dropout must be"
        " below 1.0, not 1.2",
    ),
    "choice the trial refuses": (
        "space:\n", "space:\n  optim.schedule: {choice: [linear, cosin]}\n", 26,
        "space.optim.schedule: holds 'cosin', but trial.optim.schedule must be one of"
        " constant, linear, cosine,"
        " cosine_with_restarts, polynomial, not 'cosin'; did you mean 'cosine'?",
    ),
    "ef_search of a flat index": (
        "index: one, n_docs: 2", "index: one, n_docs: 2, ef_search: 64", 19,
        "trial.retrieval.ef_search: index 'one' is Flat, which has no use for it; leave it out,"
        " or build an HNSW index",
    ),
    "nprobe of no cells": (
        "index: one, n_docs: 2", "index: one, n_docs: 2, nprobe: 0", 19,
        "trial.retrieval.nprobe: must be at least 1, not 0",
    ),
    "backend in the space": (
        "space:\n", "space:\n  retrieval.backend: {choice: [pool, in_process]}\n", 26,
        "space.retrieval.backend: must be the same for all trials, as it changes no model; set"
        " trial.retrieval.backend",
    ),
    "log of a count": (
        "{int: [1, 3]}", "{log: [1, 3]}", 27,
        "space.retrieval.n_docs: holds 1.0, but trial.retrieval.n_docs must be a whole"
        " number, not 1.0",
    ),
}  # fmt: skip


def test_what_is_only_of_training_has_no_use_where_nothing_is_trained(tmp_path: Path):
    text = VALID.replace("{max_epochs: 3, batch_size: 8}", "{max_epochs: 0}")

    with pytest.raises(BadInputError) as caught:
        load_spec(write_space(tmp_path, text))

    found = {mistake.key: mistake.what for mistake in caught.value.mistakes}
    assert found.keys() == {
        "space.optim.learning_rate",
        "space.regularisation.dropout",
    }
    assert "has no use, as train.max_epochs is 0" in found["space.optim.learning_rate"]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_one_wrong_line_gives_one_sentence_with_its_place(mutation: str, tmp_path: Path):
    old, new, line, message = MUTATIONS[mutation]
    assert VALID.count(old) >= 1
    path = write_space(tmp_path, VALID.replace(old, new, 1))

    with pytest.raises(BadInputError) as caught:
        load_spec(path)

    assert len(caught.value.mistakes) == 1, str(caught.value)
    assert str(caught.value).startswith(
        f"{path}:{line}: " + message.replace("{dir}", str(tmp_path))
    )


def test_the_table_of_mutations_is_long_enough():
    assert len(MUTATIONS) >= 40


def test_every_mistake_is_told_at_once_in_the_order_of_lines(tmp_path: Path):
    text = VALID.replace("seed: 3", "sed: 3").replace("trials: 4", "trials: 0")
    text = text.replace("{int: [1, 3]}", "{int: [3, 1]}").replace("n_docs: 2", "n_docs: 0")
    path = write_space(tmp_path, text)

    with pytest.raises(BadInputError) as caught:
        load_spec(path)

    keys = [mistake.key for mistake in caught.value.mistakes]
    assert keys == ["sed", "trial.retrieval.n_docs", "space.retrieval.n_docs", "budget.trials"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "space.yaml: holds no mapping of keys; start with `version: 1`"),
        (b"- a\n- b\n", "space.yaml: holds no mapping of keys"),
        (b"a: 1\nb: [1\n", "space.yaml:3: is not YAML: while parsing a flow sequence"),
        (b"a: 1\n\tb: 2\n", "space.yaml:2: is not YAML:"),
        (b"a: \xff\n", r"space.yaml: is not UTF-8 \(byte 0xff\); save the file as UTF-8"),
        (b"a: \x07\n", "space.yaml: is not YAML: unacceptable character"),
        (b"a: &x [*x]\n", "space.yaml: is not YAML: (nested too deeply|holds more than)"),
        (b"a: *x\n", "space.yaml:1: is not YAML: found undefined alias"),
        (b"? [a]\n: 1\n", "space.yaml:1: is not YAML: a key must be text"),
        (b"<<: 3\n", "space.yaml:1: is not YAML: '<<' wants a mapping"),
        (b"a: !!python/name:os.system x\n", "space.yaml:1: is not YAML: could not determine"),
        (b"[" * 1000, "space.yaml: is not YAML: nested too deeply"),
        (b"a: 1\n---\nb: 2\n", "space.yaml:2: is not YAML: expected a single document"),
        (b"a: !!int x\n", "space.yaml:1: is not YAML: 'x' is not what its tag says"),
        (b"a: !!bool x\n", "space.yaml:1: is not YAML: 'x' is not what its tag says"),
        (b"a: " + b"9" * 5000, "space.yaml:1: is not YAML: '9{60}' is not what its tag says"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_told_in_one_sentence(
    tmp_path: Path, content: bytes, message: str
):
    path = tmp_path / "space.yaml"
    path.write_bytes(content)

    with pytest.raises(BadInputError, match=message) as caught:
        load_spec(path)

    assert len(str(caught.value).splitlines()) == 1


def test_aliases_of_aliases_end_in_a_mistake_and_not_in_memory(tmp_path: Path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path = tmp_path / "space.yaml"
    path.write_text("\n".join(lines))

    with pytest.raises(BadInputError, match="holds more than 20000 values once anchors are"):
        load_spec(path)


def test_a_missing_space_file_says_how_to_get_one(tmp_path: Path):
    with pytest.raises(BadInputError, match=r"no such space file; `ragsearch init` writes one"):
        load_spec(tmp_path / "space.yaml")


def test_a_folder_of_the_original_scripts_is_told_how_to_be_named(tmp_path: Path):
    path = write_space(tmp_path)
    (tmp_path / "nq").mkdir()
    (tmp_path / "nq/train.source").touch()

    with pytest.raises(BadInputError) as caught:
        load_spec(path, ["data.train=nq", "data.val=nq/train.source"])

    folder, source = sorted(str(mistake) for mistake in caught.value.mistakes)
    assert folder.endswith(
        f"data.train: is a folder; give a file, such as {tmp_path}/nq/train.source"
    )
    assert source.endswith(
        f"data.val: needs its answers beside it, one a line: no file {tmp_path}/nq/train.target"
    )
    (tmp_path / "nq/train.target").touch()
    assert load_spec(path, ["data.val=nq/train.source"])


def test_a_folder_is_no_space_file(tmp_path: Path):
    with pytest.raises(BadInputError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("config.json", "has no readable config.json; give a folder `save_pretrained` wrote"),
        ("tokenizer.json", r"has no tokenizer \(tokenizer.json, vocab.txt, vocab.json, spiece"),
        ("model.safetensors", "has no model.safetensors; save the weights as such"),
    ],
)
def test_a_model_folder_without_a_part_is_refused(tmp_path: Path, part: str, message: str):
    path = write_space(tmp_path)
    (tmp_path / "models" / "bart" / part).unlink()

    with pytest.raises(BadInputError, match=message) as caught:
        load_spec(path)

    assert str(caught.value).startswith(f"{path}:18: trial.model.generator: ")


def test_pickled_weights_are_not_taken_for_weights(tmp_path: Path):
    path = write_space(tmp_path)
    (tmp_path / "models/bart/model.safetensors").rename(
        tmp_path / "models/bart/pytorch_model.bin"
    )

    with pytest.raises(BadInputError, match=r"no model.safetensors \(pickled weights are not"):
        load_spec(path)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_broken_model_config_is_refused(tmp_path: Path, content: str):
    path = write_space(tmp_path)
    (tmp_path / "models" / "bart" / "config.json").write_text(content)

    with pytest.raises(BadInputError, match=r"has no readable config.json"):
        load_spec(path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_path_no_file_system_takes_is_no_such_file(tmp_path: Path, name: str):
    text = VALID.replace("train: train.jsonl", f'train: "{name}"'.replace("\0", "\\0"))

    with pytest.raises(BadInputError, match=r":5: data.train: no such file"):
        load_spec(write_space(tmp_path, text))


def paths_in(
    data: object, above: tuple[str | int, ...] = ()
) -> Iterator[tuple[str | int, ...]]:
    inner = data.items() if isinstance(data, dict) else ()
    for key, value in enumerate(data) if isinstance(data, list) else inner:
        yield (*above, key)
        yield from paths_in(value, (*above, key))


JUNK = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    float("nan"),
    "x",
    "a/b/c",
    "\0",
    [],
    [[]],
    {},
    {"x": {}},
)


@pytest.mark.parametrize("path", list(paths_in(yaml.safe_load(VALID))), ids=str)
def test_junk_at_any_key_is_taken_or_refused_but_never_breaks(
    path: tuple[str | int, ...], tmp_path: Path
):
    space = write_space(tmp_path)
    for junk in JUNK:
        data = read_document(VALID, "f").data
        reduce(getitem, path[:-1], data)[path[-1]] = junk
        space.write_text(write_document(data))
        try:
            mistakes = load_spec(space).digest and ()
        except BadInputError as error:
            mistakes = error.mistakes

        assert len(mistakes) == len({str(mistake) for mistake in mistakes})
        assert all("\n" not in str(mistake) for mistake in mistakes)


@pytest.mark.parametrize(
    ("model", "metric", "why"),
    [
        (
            "freeze_question_encoder: true",
            "train/question_encoder_grad_norm",
            "no trial reports .*grad_norm: all have it frozen; drop the constraint",
        ),
        ("type: closed_book", "val/hit_overlap", "no trial reports .*: all are closed_book"),
        ("type: closed_book", "val/recall_at_5", "no trial reports .*: all are closed_book"),
    ],
)
def test_a_constraint_on_what_no_trial_reports_is_refused(tmp_path, model, metric, why):
    text = VALID.replace("generator: models/bart\n", f"generator: models/bart\n    {model}\n")
    path = write_space(tmp_path, f"{text}constraints: [{{metric: {metric}, min: 0.1}}]\n")

    with pytest.raises(BadInputError, match=rf"yaml:33: constraints\.0\.metric: {why}"):
        load_spec(path)


def test_constraints_are_kept_as_written(tmp_path):
    text = f"{VALID}constraints: [{{metric: val/unique_passage_ratio, min: 0.05}}]\n"

    spec = load_spec(write_space(tmp_path, text))

    (constraint,) = spec.file.constraints
    assert constraint == ConstraintSection(metric="val/unique_passage_ratio", min=0.05)
    again = tmp_path / "again.yaml"
    again.write_text(spec.to_yaml())
    assert load_spec(again).file.constraints == spec.file.constraints
