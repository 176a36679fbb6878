"""The bench: what retrieval and training cost, ours and in the designs they replace.

In: how many passages, clients, steps, or an index. Out: one row a design and setting. Knows the
retrievers, the training and Ray; knows nothing of trials of a search or MLflow.
"""
