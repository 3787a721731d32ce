"""The losses that have a name."""

from app.engine.losses.base import Loss

SQUARED = Loss(name="squared", error="(r - r_hat)**2 / 2", is_scale_free=True)
"""Half the squared error with an L2 penalty: Koren, Bell & Volinsky 2009, eq. 5, and the steps that follow it there."""

ALL = (SQUARED,)
