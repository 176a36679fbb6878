"""Hyperparameter search for retrieval-augmented generation, over one shared index.

The map: the packages in the order the data travels, each with its modules in that order.

    errors      what may go wrong on purpose, and the exit codes
    quickstart  shipped data and models; files only

    spec        a space file becomes a frozen Spec, every mistake with its line
                  document environment extends draft paths section trial index_section
                  search_section schema domains domain_parser amounts keys grammar
                  expressions space space_parser space_rules knobs folders messages models
                  uses rescoring search_rules rules spec load json_schema
    data        questions and corpora from files, checked row by row
                  rows lines ids questions gold passages chunks check
    index       a corpus becomes passages, vectors and FAISS, named by a fingerprint
                  weights pooling encoder store hits fingerprint manifest sketch vectors
                  place build merge open knowledge hf_import hf
    retrieval   the seam `Retriever`, and the pool of replicas behind it
                  retriever stock distributed memory meter batcher cache wire server replica
                  placement gauges actors lease routes local client start alias info turns pool
    training    one trial: question to hits to contexts to marginal loss, fit and scored
                  compiler parts encoder_only lora model contexts tokens pipeline loss encoded
                  marginal decode metrics workers evaluation sweep latency collapse optimizer
                  rungs module origin randomness state trace fit
    tracking    MLflow: a run a search, a run a trial
                  search_run trials final writer child
    search      many trials: planned, proposed, stopped, recorded
                  automatic cores machine turns plan run lock inputs agree widen tokens launch
                  cluster journal record front afterwards study space samplers tpe searcher
                  scheduler hyperband population replay ending trainable variants experiment
                  workers checkpoints budget disk standing progress evaluations rescoring final
                  bootstrap comparison finish
    results     what one does with a search: look, export, evaluate, ask
                  leaderboard final bundle export card answering predictions evaluate ask
    bench       what a retrieval call, a training step and a search cost, side by side
                  plan indexes client connections processes designs same costs retrieval
                  report train_plan models trainee trainees train train_report sweep_plan
                  original_trial sweep_designs sweep sleeping bookkeeping surrogate searchers
                  sweep_report
    cli         the commands: parse, call one function, print
                  app options space starter live index pool results bench sweep printing
    __main__    `python -m ragsearch`

Imports only go up this list: `spec` knows nothing of `search`. What the functions below need is
imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragsearch.index.open import open_index
    from ragsearch.results.export import export_best
    from ragsearch.retrieval.pool import join_pool
    from ragsearch.search.run import run_search
    from ragsearch.spec import load_spec

__version__ = "0.1.0"

__all__ = ["__version__", "export_best", "join_pool", "load_spec", "open_index", "run_search"]

_HOME_OF = {
    "load_spec": "ragsearch.spec",
    "open_index": "ragsearch.index.open",
    "join_pool": "ragsearch.retrieval.pool",
    "run_search": "ragsearch.search.run",
    "export_best": "ragsearch.results.export",
}


def __getattr__(name: str) -> object:
    """Import a public function when it is first asked for: the front door stays light."""
    if name not in _HOME_OF:
        msg = f"module 'ragsearch' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
