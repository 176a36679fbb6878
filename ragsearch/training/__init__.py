"""One trial: a RAG model fine-tuned through the marginal loss, and scored.

The way of a batch: `data` (questions become token batches) → `pipeline` (encode, retrieve,
build contexts with `contexts` from texts or from `tokens` kept on disk, encode them with
`encoded`, run the generator) → `loss` or `decode` → `metrics`.
`model` assembles, saves and loads the model, `lora` puts adapters into it, `optimizer` moves
its weights, `module` is its Lightning module, `fit` runs a whole trial, `trace` shows where its
time goes, `evaluation` scores a model on questions, `collapse` tells whether it still
retrieves. `state` is what a trial needs to go on after an epoch, `randomness` and `origin`
(what it is of) among it.

Knows the `Retriever` seam; knows nothing of Ray, of searches or of MLflow.

Axes: B questions, K passages per question, S context tokens, T answer tokens, V vocabulary,
D embedding size.
"""
