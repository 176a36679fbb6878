"""Spec → Ray Tune: plan it, run it, keep its record.

`plan` says beforehand what a search will do, `cores` how many trials at a time; `run` does it,
with `tokens` (passages tokenised beforehand), `cluster` (Ray), `space` (domains for Optuna),
`samplers` (who proposes), `scheduler` (early stopping), `population` (PBT), `trainable` (one
trial in a worker) and `progress` (events into the record and the log). `automatic` decides what
the space file leaves open. `record` is the folder a search leaves, `front` the best of it where
there are several objectives.
"""
