"""A loss: an error and a penalty as text, the link from scores to ratings, and values of its parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.engine.arrays import Vector64

Link = Literal["identity", "sigmoid", "exp"]
LINKS: tuple[Link, ...] = get_args(Link)

L2 = "theta**2 / 2"
NO_PENALTY = "0"

_EDGE = 1e-3
"""Least distance, as a share of the range, of a sigmoid's first score from its ends, where its inverse is infinite."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The objective of a fit: sum over ratings of error(r, r_hat) + sum over parameters theta of reg * penalty(theta).

    error: an expression in r (the rating) and r_hat = link(score), score = mean + b_u + b_i + p.q. penalty: one in
    theta, each entry of the vectors (weighed by regularization) and each bias (weighed by reg_bias) of the rating's
    user and item, paid once per rating; or one in p, q, b_u and b_i, where these differ. Build it with `declare`.
    """

    name: str
    error: str
    penalty: str = L2
    link: Link = "identity"
    parameters: tuple[tuple[str, float], ...] = ()
    """Named numbers of the texts; they become part of the compiled kernel."""
    rating_range: tuple[float, float] | None = None
    """Range of a sigmoid link, and the values of `low` and `high`."""
    unit: float = 1.0
    divisor: float = 1.0
    """Set for training only: error(unit * r, unit * r_hat) / divisor is minimized (see `units`)."""

    @property
    def names(self) -> dict[str, float]:
        """Every named number of the texts."""
        ends = dict(zip(("low", "high"), self.rating_range, strict=True)) if self.rating_range else {}
        return {**ends, **dict(self.parameters)}

    @property
    def is_squared(self) -> bool:
        """Whether folding in has a closed form."""
        return self.link == "identity" and self.error == "(r - r_hat)**2 / 2"

    def rating_of(self, score: npt.ArrayLike) -> Vector64:
        """link(score)."""
        import numpy as np  # here, not above: settings import losses, and `palate --help` should not load NumPy

        scores = np.asarray(score, np.float64)
        if self.link == "sigmoid":
            low, high = self._ends()
            return np.asarray(low + (high - low) * (0.5 + 0.5 * np.tanh(scores / 2)))
        return np.exp(np.minimum(scores, 700.0)) if self.link == "exp" else scores

    def rating_slope_of(self, score: npt.ArrayLike) -> Vector64:
        """d link / d score."""
        import numpy as np

        scores = np.asarray(score, np.float64)
        if self.link == "sigmoid":
            low, high = self._ends()
            share = 0.5 + 0.5 * np.tanh(scores / 2)
            return np.asarray((high - low) * share * (1 - share))
        return np.exp(np.minimum(scores, 700.0)) if self.link == "exp" else np.ones_like(scores)

    def score_of(self, rating: float) -> float:
        """link^-1 of the nearest rating that has one."""
        if self.link == "sigmoid":
            low, high = self._ends()
            share = min(max((rating - low) / (high - low), _EDGE), 1 - _EDGE)
            return math.log(share / (1 - share))
        return math.log(max(rating, 1e-3)) if self.link == "exp" else rating

    def scores_of(self, ratings: npt.ArrayLike) -> Vector64:
        """link^-1 of each rating, infinite at the ends of a link's range."""
        import numpy as np

        values = np.asarray(ratings, np.float64)
        with np.errstate(all="ignore"):
            if self.link == "sigmoid":
                low, high = self._ends()
                return np.log(values - low) - np.log(high - values)
            return np.log(values) if self.link == "exp" else values

    def to_dict(self) -> dict[str, Any]:
        """The declaration, ready for JSON."""
        return {
            "name": self.name,
            "error": self.error,
            "penalty": self.penalty,
            "link": self.link,
            "parameters": dict(self.parameters),
            "rating_range": list(self.rating_range) if self.rating_range else None,
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        ends = mapping.get("rating_range")
        return cls(
            name=mapping["name"],
            error=mapping["error"],
            penalty=mapping["penalty"],
            link=mapping["link"],
            parameters=tuple((name, float(value)) for name, value in mapping["parameters"].items()),
            rating_range=(float(ends[0]), float(ends[1])) if ends else None,
        )

    def replace(self, **changes: Any) -> Self:
        """A changed copy."""
        return dataclasses.replace(self, **changes)

    def _ends(self) -> tuple[float, float]:
        assert self.rating_range is not None, "a sigmoid link is declared with a rating range"
        return self.rating_range
