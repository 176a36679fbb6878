"""Spec → Ray Tune: plan it, run it, keep its record.

`plan` says beforehand what a search will do, `cores` how many trials at a time; `run` does it,
with `tokens` (passages tokenised beforehand), `launch` and `cluster` (Ray), `study` (Optuna's
trials, with `space` and `samplers`), `searcher` (the study as Tune asks it), `scheduler` (early
stopping), `trainable` (one trial in a worker, with `workers` and `ending`) and `progress`
(events into the record and the log).

`record` is the folder a search leaves, in files of `journal`. A search that goes on later is
held by one process (`lock`), with a space file that still fits (`agree`, `widen`); its
scheduler is told what was before (`replay`).
"""
