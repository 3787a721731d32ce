"""What this process counts and times. With several API processes their figures add up (see `processes`)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from app.metrics import processes

disable_created_metrics()  # a time of birth beside every count, which several processes cannot tell anyway
processes.share_figures()  # before the first instrument: each decides when it is made where its value lives

_ANSWER_TIMES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LIST_TIMES = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

REQUESTS = Counter("palate_http_requests", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "palate_http_request_duration_seconds",
    "From the first byte of a request to the last of its answer.",
    ["method", "route"],
    buckets=_ANSWER_TIMES,
)
RATINGS_WRITTEN = Counter("palate_ratings_written", "Ratings by what became of them.", ["outcome"])
USERS_ANSWERED = Counter("palate_users_answered", "Users that a list or a prediction was made for.", ["source"])
TOP_N_SECONDS = Histogram("palate_top_n_seconds", "Choosing the best items of a list.", buckets=_LIST_TIMES)
SERVED_VERSION = Gauge(
    "palate_served_model_version", "Version that a process answers from.", multiprocess_mode="liveall"
)
CONNECTIONS = Gauge("palate_database_connections", "Connections of the pool.", ["state"], multiprocess_mode="livesum")
MOST_CONNECTIONS = Gauge("palate_database_connections_max", "Most that the pool opens.", multiprocess_mode="livesum")

_WRITTEN = {outcome: RATINGS_WRITTEN.labels(outcome) for outcome in ("created", "updated", "unchanged", "removed")}


def count_ratings(*, created: int = 0, updated: int = 0, unchanged: int = 0, removed: int = 0) -> None:
    """Count what a committed transaction did."""
    for outcome, n in (("created", created), ("updated", updated), ("unchanged", unchanged), ("removed", removed)):
        if n:
            _WRITTEN[outcome].inc(n)
