"""The metrics of this process. Those of several API processes are added up (see `multiprocess`)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from app.metrics import multiprocess

disable_created_metrics()  # a creation time for each counter, which is unknown for several processes
multiprocess.use_shared_folder()  # before the first instrument: each fixes the storage of its value when it is created

_REQUEST_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOP_N_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

REQUESTS = Counter("palate_http_requests", "Requests handled.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "palate_http_request_duration_seconds",
    "From the first byte of a request to the last of its response.",
    ["method", "route"],
    buckets=_REQUEST_BUCKETS,
)
RATINGS_WRITTEN = Counter("palate_ratings_written", "Ratings by outcome.", ["outcome"])
USERS_ANSWERED = Counter("palate_users_answered", "Users for whom a list or prediction was computed.", ["source"])
TOP_N_SECONDS = Histogram("palate_top_n_seconds", "Time of the top-N search of a list.", buckets=_TOP_N_BUCKETS)
SERVED_VERSION = Gauge("palate_served_model_version", "Version that a process serves.", multiprocess_mode="liveall")
CONNECTIONS = Gauge(
    "palate_database_connections", "Connections of the database pool by state.", ["state"], multiprocess_mode="livesum"
)
MAX_CONNECTIONS = Gauge(
    "palate_database_connections_max", "Maximum size of the database pool.", multiprocess_mode="livesum"
)

_WRITTEN = {outcome: RATINGS_WRITTEN.labels(outcome) for outcome in ("created", "updated", "unchanged", "removed")}


def count_ratings(*, created: int = 0, updated: int = 0, unchanged: int = 0, removed: int = 0) -> None:
    """Count the outcome of a committed transaction."""
    for outcome, n in (("created", created), ("updated", updated), ("unchanged", unchanged), ("removed", removed)):
        if n:
            _WRITTEN[outcome].inc(n)
