"""The metrics of a run: one record that training fills in, the database stores as JSON, and the API returns.

Metrics that a run did not measure are left out of the JSON.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_HELD_OUT = "on held-out ratings"

METRICS_EXAMPLE: dict[str, Any] = {
    "holdout_rmse": 0.846,
    "holdout_mae": 0.648,
    "holdout_interval_80_coverage": 0.802,
    "ndcg_at_10": 0.081,
    "n_holdout": 5042,
    "best_epoch": 27,
    "report": {
        "interval_level": 0.8,
        "baselines": {
            "overall_mean": {"rmse": 1.04, "mae": 0.83},
            "biases": {"rmse": 0.87, "mae": 0.67},
            "popularity": {"recall_at_10": 0.12, "ndcg_at_10": 0.09},
        },
        "by_ratings_of_user": [
            {"from": 10, "to": 29, "n": 310, "rmse": 0.88, "mae": 0.68, "coverage": 0.8, "width": 2.1}
        ],
        "by_ratings_of_item": [
            {"from": 300, "to": None, "n": 120, "rmse": 0.8, "mae": 0.6, "coverage": 0.81, "width": 1.9}
        ],
    },
    "seconds": {"load": 0.1, "fit": 0.6, "posterior": 6.1},
}


class Errors(BaseModel):
    """How far predictions are from the ratings."""

    rmse: float = Field(description="Root mean squared error.", examples=[0.87])
    mae: float = Field(description="Mean absolute error.", examples=[0.67])


class Ranking(BaseModel):
    """How many of the held-out items that a user liked are in the user's list; empty if no user liked any."""

    recall_at_10: float | None = Field(
        None, description="Share of these items that are among the first ten.", examples=[0.12]
    )
    ndcg_at_10: float | None = Field(None, description="The same, with higher ranks counting more.", examples=[0.09])


class Baselines(BaseModel):
    """Errors of simple baselines on the same held-out ratings."""

    overall_mean: Errors = Field(description="Predicting the mean of all ratings.")
    biases: Errors = Field(description="Damped means of items and users (Koren, Bell & Volinsky 2009, eq. 3).")
    popularity: Ranking = Field(description="Lists by number of ratings.")


class Bucket(Errors):
    """Errors and intervals for the users, or items, whose number of ratings is in a range."""

    model_config = ConfigDict(populate_by_name=True)

    first: int = Field(alias="from", description="Lowest number of ratings of the bucket.", examples=[10])
    last: int | None = Field(alias="to", description="Highest number; null in the last bucket.", examples=[29])
    n: int = Field(description="Held-out ratings in the bucket.", examples=[310])
    coverage: float = Field(description="Share of them inside their interval.", examples=[0.8])
    width: float = Field(description="Mean width of their intervals, in rating units.", examples=[2.1])


class QualityReport(BaseModel):
    """The accuracy of a version compared with baselines, and by the number of ratings of users and items."""

    interval_level: float = Field(description="Share of ratings that intervals should contain.", examples=[0.8])
    baselines: Baselines
    by_ratings_of_user: list[Bucket] = Field(description="By the user's number of ratings, ascending.")
    by_ratings_of_item: list[Bucket] = Field(description="By the item's number of ratings, ascending.")


class Gate(BaseModel):
    """A fit compared with the version that was active, on ratings that neither has learned from."""

    active_version: int = Field(description="The version that was active.", examples=[6])
    n_ratings: int = Field(description="Ratings that both were measured on.", examples=[5042])
    rmse: float | None = Field(description="RMSE of the fit.", examples=[0.806])
    active_rmse: float | None = Field(description="RMSE of the active version.", examples=[0.809])


class Averaging(BaseModel):
    """The outcome of posterior averaging."""

    is_on: bool = Field(description="Whether the run averaged.")
    n_sweeps: int | None = Field(None, description="Sweeps until the error converged.", examples=[160])
    n_factors: int | None = Field(None, description="Length of the published vectors.", examples=[14])
    holdout_rmse: float | None = Field(None, description=f"RMSE of the average {_HELD_OUT}.", examples=[0.801])
    holdout_rmse_before: float | None = Field(None, description="RMSE of the fit it started from.", examples=[0.85])


class CategoryFeatures(BaseModel):
    """Item features that posterior averaging used besides ratings."""

    n_features: int = Field(description="Features made from an item's categories.", examples=[20])
    n_unrated_items: int = Field(description="Items without ratings whose vector comes from them.", examples=[18])


class Start(BaseModel):
    """Whether a run started from the active version (warm) or from scratch (cold)."""

    is_warm: bool = Field(description="Whether it started from a version.")
    reason: str | None = Field(None, description="Why it started cold.", examples=["there is no active version"])
    from_version: int | None = Field(None, description="The version that it started from.", examples=[6])
    n_warm_in_a_row: int | None = Field(None, description="Warm versions since the last cold one.", examples=[2])
    n_changed: int | None = Field(None, description="Ratings that were new or changed.", examples=[1200])
    drift: float | None = Field(None, description="RMSE relative to that of the last cold version.", examples=[1.001])


class ChosenTrial(BaseModel):
    """The trial of a search whose hyperparameters the run used."""

    search_id: int = Field(description="Number of the search.", examples=[12])
    best_trial: int = Field(description="Number of the trial.", examples=[17])
    value: float | None = Field(description="Its error.", examples=[0.845])


class RunMetrics(BaseModel):
    """What a run measured; empty while it is running."""

    model_config = ConfigDict(json_schema_extra={"examples": [METRICS_EXAMPLE]})

    holdout_rmse: float | None = Field(None, description=f"RMSE of predictions by fold-in {_HELD_OUT}.")
    holdout_mae: float | None = Field(None, description="Mean absolute error of the same predictions.")
    holdout_rmse_trained_vectors: float | None = Field(None, description="RMSE with the users' trained vectors.")
    holdout_mae_trained_vectors: float | None = Field(None, description="Mean absolute error with the trained vectors.")
    holdout_rmse_item_means: float | None = Field(None, description="RMSE of predicting each item's mean.")
    holdout_interval_80_coverage: float | None = Field(None, description="Share of ratings inside 80 % intervals.")
    recall_at_10: float | None = Field(None, description="Share of liked items among the first ten of lists.")
    ndcg_at_10: float | None = Field(None, description="The same, with higher ranks counting more.")
    recall_at_10_by_relevance: float | None = Field(None, description="Recall of lists by relevance instead of value.")
    ndcg_at_10_by_relevance: float | None = Field(None, description="nDCG of lists by relevance instead of value.")
    ndcg_at_10_of_rated: float | None = Field(None, description="nDCG of the order of each user's held-out ratings.")
    n_holdout: int | None = Field(None, description="Held-out ratings.")
    best_epoch: int | None = Field(None, description="Epoch with the lowest hold-out error.")
    train_rmse: float | None = Field(None, description="RMSE on the training ratings in that epoch.")
    holdout_error: float | None = Field(None, description="Mean declared loss, where it is not squared.")
    report: QualityReport | None = Field(None, description="Baselines, and errors by number of ratings.")
    gate: Gate | None = Field(None, description="Comparison with the version that was active.")
    posterior: Averaging | None = Field(None, description="The outcome of posterior averaging.")
    categories: CategoryFeatures | None = Field(None, description="Features from categories, if items have any.")
    start: Start | None = Field(None, description="How the run started: warm or cold.")
    search: ChosenTrial | None = Field(None, description="The search that chose the hyperparameters.")
    seconds: dict[str, float] | None = Field(None, description="Seconds of each phase of the run.")

    def to_json(self) -> dict[str, Any]:
        """As the database and the manifest store it: without the metrics that were never set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
