"""What a process says of itself: one line per event on standard error."""

from __future__ import annotations

import logging

from app.settings import Settings


def set_up_logs(settings: Settings, process: str) -> None:
    """Lines with time, level, process (`service`, `trainer`) and place; nothing where logs are set up already.

    The level of the settings is ours; libraries speak up from `warning` on.
    """
    if logging.getLogger().handlers:
        return
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s")
    logging.getLogger("app").setLevel(settings.log_level.upper())
