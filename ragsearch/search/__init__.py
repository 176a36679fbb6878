"""Spec → Ray Tune: plan it, run it, keep its record.

`plan` says beforehand what a search will do, `cores` how many trials at a time, `automatic`
what the space file leaves open; `run` does it, with `launch` (Ray and all that runs on it),
`tokens` (passages tokenised beforehand), `cluster` (Ray), `study` (Optuna's trials, with
`space` and `samplers`), `searcher` (the study as Tune asks it), `scheduler` (early stopping,
with `population` for PBT), `trainable` (one trial in a worker, with `workers` and `ending`) and
`progress` (events into the record and the log).

`record` is the folder a search leaves, in files of `journal`; `front` is the best of it where
there are several objectives. A search that goes on later is held by one process (`lock`), with
a space file that still fits (`agree`, `widen`); its scheduler is told what was before
(`replay`).
"""
