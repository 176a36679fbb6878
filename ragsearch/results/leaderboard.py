"""A search by name, and its trials as data for scripts and as rows for people.

Reads the record of a search alone: no Ray, no MLflow, no torch.
"""

import difflib
import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from ragsearch.errors import BadInputError
from ragsearch.search.comparison import compare
from ragsearch.search.front import chosen, front
from ragsearch.search.record import RECORD_FILE, SearchRecord, TrialRecord

BASELINE = 0
"""Number of the trial that runs the space file's `trial:` as it is."""

_SHOWN_METRICS = ("val/em", "val/f1", "val/nll", "val/recall_at_5")
_N_LISTED = 10
_CHOSEN = "chosen"


def find_search(search: Path | str | None = None, output: Path = Path("runs")) -> SearchRecord:
    """Return the record of a search.

    Args:
        search: Its name or its folder; the newest search by default.
        output: Folder for searches and indexes.

    Raises:
        BadInputError: If there is no such search, or its record is damaged.
    """
    if search is None:
        return SearchRecord.load(_newest(output))
    for folder in (output / search, Path(search)):
        if (folder / RECORD_FILE).is_file():
            return SearchRecord.load(folder)
    raise BadInputError.single(output, f"no search {str(search)!r}; {_advice(search, output)}")


def leaderboard(record: SearchRecord) -> dict[str, object]:
    """Return every trial as plain data, trial 0 first, with the metrics of its best epoch.

    `rescored` has its scores under every setting of `rescore`, and `final` the comparison of
    the final runs; None without any.
    `reason` says why a trial failed, diverged or is infeasible; else it is None. Of a search
    with several objectives `front` tells the trials on the Pareto front, and `chosen` is the
    number of the one that `export` takes.
    Metrics that are not finite numbers are None, as JSON has no word for them.
    """
    marks, is_several = _marks(record), len(record.objectives) > 1
    trials: list[dict[str, object]] = [
        {
            "trial": trial.trial,
            "status": str(trial.status),
            "reason": trial.reason,
            "params": trial.params,
            "metrics": _plain(record.best_epoch(trial) or {}),
            "rescored": [
                {"values": one.values, "metrics": _plain(one.metrics)} for one in trial.rescored
            ],
            **({"front": trial.trial in marks} if is_several else {}),
        }
        for _, trial in sorted(record.trials.items())
    ]
    best = chosen(record) if is_several else None
    named = {"chosen": best and best.trial} if is_several else {}
    comparison = compare(record)
    final = None if comparison is None else comparison.as_dict()
    return {"search": record.search, **named, "trials": trials, "final": final}


def _plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def rows(record: SearchRecord) -> list[dict[str, object]]:
    """Give one row a trial for people: best first, those that cannot be the best one last."""
    ranked = record.ranked()
    eligible = {trial.trial for trial in ranked}
    rest = [trial for number, trial in sorted(record.trials.items()) if number not in eligible]
    varied = dict.fromkeys(path for trial in ranked + rest for path in trial.params)
    table = [_row(record, trial, list(varied)) for trial in ranked + rest]
    if marks := _marks(record):
        for row, trial in zip(table, ranked + rest, strict=True):
            row["front"] = marks.get(trial.trial)
    if any(trial.reason for trial in rest):
        for row, trial in zip(table, ranked + rest, strict=True):
            row["reason"] = trial.reason
    if any(trial.rescored for trial in ranked + rest):
        for row, trial in zip(table, ranked + rest, strict=True):
            row.update(_rescored(record, trial))
    return table


def _rescored(record: SearchRecord, trial: TrialRecord) -> dict[str, object]:
    """Return the setting under which a trial's model is best, and its score."""
    setting = record.best_setting(trial)
    if setting is None:
        return {"best setting": None, f"rescored {record.metric}": None}
    values = ", ".join(f"{path}={value}" for path, value in setting.values.items())
    shown = values or "as trained"
    return {"best setting": shown, f"rescored {record.metric}": setting.metrics[record.metric]}


def _marks(record: SearchRecord) -> dict[int, str]:
    """Return the trials on the Pareto front; none where there is one objective only."""
    if len(record.objectives) == 1:
        return {}
    best = chosen(record)
    return {trial.trial: _CHOSEN if trial is best else "on it" for trial in front(record)}


def _row(record: SearchRecord, trial: TrialRecord, varied: list[str]) -> dict[str, object]:
    best = record.best_epoch(trial) or {}
    objectives = [objective.metric for objective in record.objectives]
    number: object = "0 (baseline)" if trial.trial == BASELINE else trial.trial
    return {
        "trial": number,
        "status": trial.status.replace("_", " "),
        **{path: trial.params.get(path) for path in varied},
        "epochs": len(trial.epochs),
        **{metric: best.get(metric) for metric in (*objectives, *_SHOWN_METRICS)},
    }


def _searches(output: Path) -> list[Path]:
    """List the folders of searches, newest first."""
    folders = [file.parent for file in output.glob(f"*/{RECORD_FILE}")]
    return sorted(folders, key=lambda folder: (_started(folder), folder.name), reverse=True)


def _started(folder: Path) -> float:
    try:
        started = json.loads((folder / RECORD_FILE).read_text())["started"]
        return datetime.fromisoformat(started).timestamp()
    except (ValueError, TypeError, KeyError):
        return -math.inf  # damaged: said when it is opened, and no newer search is hidden by it


def _newest(output: Path) -> Path:
    folders = _searches(output)
    if not folders:
        raise BadInputError.single(output, "no search here; start one with `ragsearch run`")
    return folders[0]


def _advice(search: Path | str, output: Path) -> str:
    names = [folder.name for folder in _searches(output)]
    if not names:
        return "there is none here; start one with `ragsearch run` or give a search's folder"
    near = difflib.get_close_matches(str(search), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f" and {len(names) - _N_LISTED} older" if len(names) > _N_LISTED else ""
    return f"{hint}there are: {', '.join(names[:_N_LISTED])}{more}"
