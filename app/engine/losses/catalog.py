"""The losses and penalties that have a name."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.engine.losses.base import L2, NO_PENALTY, Link, Loss


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A loss that has a name. `parameters` are the default values of its parameters."""

    name: str
    error: str
    formula: str
    source: str
    when: str
    link: Link = "identity"
    parameters: dict[str, float] = field(default_factory=dict)


ENTRIES = (
    CatalogEntry(
        name="squared",
        error="(r - r_hat)**2 / 2",
        formula="e^2 / 2, e = r - r_hat",
        source="Koren, Bell & Volinsky 2009, eq. 5",
        when="The default: r_hat is the expected rating, and RMSE is what you care about.",
    ),
    CatalogEntry(
        name="absolute",
        error="sqrt((r - r_hat)**2 + width**2) - width",
        formula="|e|, rounded off within `width` of zero",
        source="Charbonnier et al. 1994, eq. 13",
        when="r_hat is the median rating; outliers weigh no more than other ratings.",
        parameters={"width": 0.1},
    ),
    CatalogEntry(
        name="huber",
        error="huber(r - r_hat, delta)",
        formula="e^2 / 2 within `delta`, delta (|e| - delta / 2) beyond",
        source="Huber 1964, section 3",
        when="Some ratings are noise: like squared for small errors, like absolute for large ones.",
        parameters={"delta": 1.0},
    ),
    CatalogEntry(
        name="log_cosh",
        error="log(cosh((r - r_hat) / width)) * width**2",
        formula="width^2 log cosh(e / width)",
        source="Green 1990, section 3",
        when="Like huber, but smooth: the slope is a tanh.",
        parameters={"width": 1.0},
    ),
    CatalogEntry(
        name="quantile",
        error="(sqrt((r - r_hat)**2 + width**2) - width) / 2 + (level - 0.5) * (r - r_hat)",
        formula="level e for e > 0, (level - 1) e else, rounded off within `width`",
        source="Koenker & Bassett 1978, eq. 3.1",
        when="r_hat is a low or high estimate: level 0.1 is exceeded by nine ratings in ten.",
        parameters={"level": 0.5, "width": 0.1},
    ),
    CatalogEntry(
        name="logistic",
        error="-((r - low) * log(r_hat - low) + (high - r) * log(high - r_hat)) / (high - low)",
        formula="-(y log y_hat + (1 - y) log(1 - y_hat)), y = (r - low) / (high - low)",
        source="Cox 1958, section 2",
        when="Like or dislike, or ratings mostly at both ends: r_hat stays inside the rating range.",
        link="sigmoid",
    ),
    CatalogEntry(
        name="poisson",
        error="r_hat - r * log(r_hat)",
        formula="r_hat - r log r_hat, without the terms in r alone",
        source="Nelder & Wedderburn 1972, section 5; Gopalan, Hofman & Blei 2015",
        when="Counts (plays, purchases): r_hat is positive, and effects multiply.",
        link="exp",
    ),
)

PENALTIES: dict[str, tuple[str, dict[str, float]]] = {
    "l2": (L2, {}),
    "elastic_net": ("l1_share * abs(theta) + (1 - l1_share) * theta**2 / 2", {"l1_share": 0.5}),
    "none": (NO_PENALTY, {}),
}
"""Texts of the named penalties, with the defaults of their parameters."""

BY_NAME = {entry.name: entry for entry in ENTRIES}

SQUARED = Loss(name="squared", error=BY_NAME["squared"].error)
"""Half the squared error with an L2 penalty: Koren, Bell & Volinsky 2009, eq. 5, and the steps that follow it there."""
