"""What a loss is: a name and two expressions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loss:
    """The objective of a fit: sum over ratings of error(r, r_hat) + sum over parameters theta of reg * penalty(theta).

    error is an expression in r (the rating) and r_hat (its prediction); penalty one in theta, each entry of the vectors
    (weighed by regularization) and each bias (weighed by reg_bias) of the rating's user and item, paid once per rating.
    """

    name: str
    error: str
    penalty: str = "theta**2 / 2"
    is_scale_free: bool = False
    """error(c r, c r_hat) = c^n error(r, r_hat): then ratings may be standardised, so that defaults fit any scale."""
