"""Spec → Ray Tune: plan it, run it, keep its record.

`plan` says beforehand what a search will do, `cores` how many trials at a time; `run` does it,
with `tokens` (passages tokenised beforehand), `cluster` (Ray), `space` (domains for Optuna),
`scheduler` (early stopping), `trainable` (one trial in a worker) and `progress` (events into
the record and the log); `record` is the folder a search leaves.
"""
