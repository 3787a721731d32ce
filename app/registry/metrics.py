"""What a run measured, as a version keeps it and the API tells it. Measures that a run did not take are left out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_HELD_OUT = "on ratings held out"

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

    rmse: float = Field(description="Root of the mean squared error.", examples=[0.87])
    mae: float = Field(description="Mean absolute error.", examples=[0.67])


class Ranking(BaseModel):
    """How much of what users liked is at the top of their lists; empty where nobody liked anything held out."""

    recall_at_10: float | None = Field(None, description="Share of it among the first ten.", examples=[0.12])
    ndcg_at_10: float | None = Field(None, description="The same, higher places counting more.", examples=[0.09])


class Baselines(BaseModel):
    """What simple rules do with the same ratings held out."""

    overall_mean: Errors = Field(description="The mean of all ratings, for everything.")
    biases: Errors = Field(description="Damped means of items and users (Koren, Bell & Volinsky 2009, eq. 3).")
    popularity: Ranking = Field(description="Lists by number of ratings.")


class Bucket(Errors):
    """Answers about users, or items, with so many ratings."""

    first: int = Field(alias="from", description="Fewest ratings of the bucket.", examples=[10])
    last: int | None = Field(alias="to", description="Most ratings; null in the last bucket.", examples=[29])
    n: int = Field(description="Ratings held out that are in it.", examples=[310])
    coverage: float = Field(description="Share of them inside their interval.", examples=[0.8])
    width: float = Field(description="Mean width of their intervals, in rating units.", examples=[2.1])


class QualityReport(BaseModel):
    """How good a version is beside simple rules, and for whom."""

    interval_level: float = Field(description="Share of ratings that intervals are to hold.", examples=[0.8])
    baselines: Baselines
    by_ratings_of_user: list[Bucket] = Field(description="By the number of ratings of the user, fewest first.")
    by_ratings_of_item: list[Bucket] = Field(description="By the number of ratings of the item, fewest first.")


class Gate(BaseModel):
    """A fit beside the version that was active then, on the same ratings that neither had seen."""

    active_version: int = Field(description="The version that was active.", examples=[6])
    n_ratings: int = Field(description="Ratings that both were asked about.", examples=[5042])
    rmse: float | None = Field(description="Error of the fit.", examples=[0.806])
    active_rmse: float | None = Field(description="Error of the active version.", examples=[0.809])


class Averaging(BaseModel):
    """What averaging over models did, and what it won."""

    is_on: bool = Field(description="Whether the run averaged.")
    n_sweeps: int | None = Field(None, description="Sweeps until the error had settled.", examples=[160])
    n_factors: int | None = Field(None, description="Length of the vectors that are published.", examples=[14])
    holdout_rmse: float | None = Field(None, description=f"Error of the average {_HELD_OUT}.", examples=[0.801])
    holdout_rmse_before: float | None = Field(None, description="Error of the fit that it began with.", examples=[0.85])


class CategoryFeatures(BaseModel):
    """What the averages knew of items besides who rated them."""

    n_features: int = Field(description="Numbers that tell an item's categories.", examples=[20])
    n_unrated_items: int = Field(description="Items without ratings that have a vector by them.", examples=[18])


class Start(BaseModel):
    """Whether a run went on from the active version, or began anew."""

    is_warm: bool = Field(description="Whether it went on from a version.")
    because: str | None = Field(None, description="Why it began anew.", examples=["there is no active version"])
    from_version: int | None = Field(None, description="The version that it went on from.", examples=[6])
    n_warm_in_a_row: int | None = Field(None, description="Versions since the last one that began anew.", examples=[2])
    n_changed: int | None = Field(None, description="Ratings that were new or changed.", examples=[1200])
    drift: float | None = Field(None, description="Error by that of the last one that began anew.", examples=[1.001])


class ChosenTrial(BaseModel):
    """The trial of a search that the run trained."""

    search_id: int = Field(description="Number of the search.", examples=[12])
    best_trial: int = Field(description="Number of the trial.", examples=[17])
    value: float | None = Field(description="Its error.", examples=[0.845])


class Metrics(BaseModel):
    """What a run measured; empty while it is running."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [METRICS_EXAMPLE]})

    holdout_rmse: float | None = Field(None, description=f"RMSE of answers by folding users in, {_HELD_OUT}.")
    holdout_mae: float | None = Field(None, description="Mean absolute error of the same answers.")
    holdout_rmse_trained_vectors: float | None = Field(None, description="RMSE by the users' own trained vectors.")
    holdout_mae_trained_vectors: float | None = Field(None, description="Mean absolute error by these.")
    holdout_rmse_item_means: float | None = Field(None, description="RMSE of guessing each item's mean.")
    holdout_interval_80_coverage: float | None = Field(None, description="Share of ratings inside 80 % intervals.")
    recall_at_10: float | None = Field(None, description="Share of what users liked among the first ten of lists.")
    ndcg_at_10: float | None = Field(None, description="The same, higher places counting more.")
    recall_at_10_by_relevance: float | None = Field(None, description="Recall of lists by relevance instead of value.")
    ndcg_at_10_by_relevance: float | None = Field(None, description="nDCG of lists by relevance instead of value.")
    ndcg_at_10_of_rated: float | None = Field(None, description="nDCG of the order of each user's ratings held out.")
    n_holdout: int | None = Field(None, description="Ratings held out.")
    best_epoch: int | None = Field(None, description="Epoch with the lowest error on ratings held out.")
    train_rmse: float | None = Field(None, description="Error on what was learned, in that epoch.")
    holdout_error: float | None = Field(None, description="Mean error as declared, where the loss is not squared.")
    report: QualityReport | None = Field(None, description="Beside simple rules, and by number of ratings.")
    gate: Gate | None = Field(None, description="Beside the version that was active.")
    posterior: Averaging | None = Field(None, description="What averaging over models won.")
    categories: CategoryFeatures | None = Field(
        None, description="What categories told; left out where there are none."
    )
    start: Start | None = Field(None, description="Whether the run went on from a version.")
    search: ChosenTrial | None = Field(None, description="The search that chose the hyperparameters.")
    seconds: dict[str, float] | None = Field(None, description="Seconds of each phase of the run.")
