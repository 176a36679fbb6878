"""What replicas measure as Ray metrics, for whoever scrapes the cluster with Prometheus.

Knows Ray; told once in a while what a replica's `Meter` says, never within a call. Without
Ray's agents nobody reads them, and nothing else changes.
"""

from ray.util.metrics import Gauge

from ragsearch.retrieval.meter import Figures

_SAID = {
    "queries_per_s": "Queries a second over the last minute.",
    "p50_s": "Median seconds from a request's arrival to its answer.",
    "p95_s": "Seconds in which 95 of 100 requests are answered.",
    "wait_s": "Mean seconds a request waits before its search.",
    "search_s": "Mean seconds of a search.",
    "queries_per_search": "Queries searched together.",
    "n_refused": "Requests refused because too many queries waited.",
    "n_cache_hits": "Queries answered without a search.",
    "n_cache_misses": "Fixed queries that were searched.",
    "n_clients": "Clients that asked within the last seconds.",
    "n_restarts": "How often the replica was killed and came back.",
}


class Gauges:
    """The metrics `ragsearch_pool_…` of one replica.

    Args:
        fingerprint: Hash of its index.
        birth: Unique to the replica, the same after restarts.
    """

    def __init__(self, fingerprint: str, birth: str) -> None:
        tags = {"index": fingerprint[:16], "replica": birth[:8]}
        self._gauges = {
            name: Gauge(f"ragsearch_pool_{name}", said, tag_keys=tuple(tags))
            for name, said in _SAID.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags(tags)

    def show(self, figures: Figures, n_restarts: int) -> None:
        """Set every gauge."""
        for name, value in {**figures, "n_restarts": n_restarts}.items():
            assert isinstance(value, int | float)
            self._gauges[name].set(value)
