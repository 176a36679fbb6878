"""The tiny indexes that the tests of retrieval have."""

from tests.retrieval.conftest import exact, other

__all__ = ["exact", "other"]
