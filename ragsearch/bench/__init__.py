"""The bench: what a retrieval call costs, in our pool and in the designs it replaces.

In: how many passages and clients, or an index. Out: one row a design, kind and number of
clients. Knows the retrievers and Ray; knows nothing of models, trials or MLflow.
"""
