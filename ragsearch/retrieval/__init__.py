"""Retrieval: the `Retriever` every trial talks to, and the pool of replicas behind it."""
