"""The hyperparameters of a fit, with ranges and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

Schedule = Literal["linear", "constant"]
Averaging = Literal["auto", "on", "off"]


class InvalidHyperparameter(ValueError):
    """A hyperparameter outside its range: says which, its value and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} must be {allowed}, not {value!r}")
        self.field = field
        self.value = value
        self.allowed = allowed


def _number(default: float | None, low: float, high: float, doc: str) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """How a fit runs. The defaults suit ten to twenty million ratings, on any scale.

    Step size and penalties act on ratings in units of their standard deviation. The first vectors are small on purpose:
    directions that few ratings support never grow, which lowers the error on small and large data alike.
    """

    n_factors: int = _number(64, 1, 1024, "length of the user and item vectors")
    n_epochs: int = _number(25, 1, 10_000, "passes over the ratings in the whole schedule")
    learning_rate: float = _number(0.032, 1e-6, 1.0, "step size of the first epoch")
    regularization: float = _number(0.04, 0.0, 10.0, "penalty on user and item vectors, applied once per rating")
    reg_bias: float = _number(0.06, 0.0, 10.0, "penalty on user and item biases, applied once per rating")
    initial_scale: float = _number(0.01, 1e-6, 1.0, "standard deviation of the random initial vectors")
    schedule: Schedule = dataclasses.field(
        default="linear", metadata={"doc": "linear: the step size falls to zero over n_epochs; constant: it is fixed"}
    )
    patience: int = _number(4, 1, 10_000, "epochs without a lower hold-out error before the fit stops")
    stop_after: int | None = _number(None, 1, 10_000, "stop after this epoch of the schedule; None: at its end")
    posterior: Averaging = dataclasses.field(
        default="auto",
        metadata={
            "doc": "average over samples of the posterior (squared error only): auto: if time allows; on: always; "
            "off: publish the fit itself"
        },
    )
    n_sweeps: int = _number(200, 2, 100_000, "maximum number of samples; fewer if the error converges earlier")
    holdout_fraction: float = _number(0.05, 0.0, 0.5, "share of the ratings held out to choose the best epoch")
    seed: int = _number(0, 0, 2**63 - 1, "the same ratings, hyperparameters and seed give the same model")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        for name, choices in (("schedule", get_args(Schedule)), ("posterior", get_args(Averaging))):
            if (value := getattr(self, name)) not in choices:
                raise InvalidHyperparameter(name, value, f"one of {', '.join(choices)}")

    @property
    def last_epoch(self) -> int:
        """The last epoch, counted from 1, that the fit may reach."""
        return self.n_epochs if self.stop_after is None else min(self.n_epochs, self.stop_after)

    def learning_rate_of(self, epoch: int) -> float:
        """Step size of an epoch counted from 1: learning_rate at the first, one n-th of it at the last if linear."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1.0 - (epoch - 1) / self.n_epochs)

    def replace(self, **changes: Any) -> Self:
        """A changed copy, validated."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain names and numbers, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; missing names take their default, unknown names raise InvalidHyperparameter."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in mapping:
            if name not in known:
                raise InvalidHyperparameter(name, mapping[name], f"left out: the names are {', '.join(sorted(known))}")
        return cls(**mapping)


def _check(field: dataclasses.Field[Any], value: object) -> None:
    """Raises InvalidHyperparameter for a number of the wrong type or out of range; floats may be whole numbers."""
    if "low" not in field.metadata or (value is None and field.default is None):
        return
    low, high = field.metadata["low"], field.metadata["high"]
    is_whole = str(field.type).startswith("int")
    allowed = f"{'a whole number' if is_whole else 'a number'} from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float) or not low <= value <= high:
        raise InvalidHyperparameter(field.name, value, allowed)
