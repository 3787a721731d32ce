"""Full collections of a running service leave alone what was there when it started."""

import gc

from app.main import create_app
from app.settings import Settings
from tests.asgi import serving


def test_what_lasts_is_not_walked_while_the_service_runs(sqlite_settings: Settings) -> None:
    with serving(create_app(sqlite_settings)):
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
