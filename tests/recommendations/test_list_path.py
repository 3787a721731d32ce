"""A list passes few of our functions and files: few enough to be read in one sitting."""

import asyncio
import sys
from types import FrameType

import httpx
import pytest

from app.db.engine import open_database
from app.engine.hyperparameters import Hyperparameters
from app.main import create_app
from app.settings import Settings
from app.training.wait_for_run import train_now
from tests.asgi import serving
from tests.conftest import REPOSITORY
from tests.recommendations.conftest import planted_ratings

APP, ENGINE = f"{REPOSITORY}/app/", f"{REPOSITORY}/app/engine/"
ROUTE = "http/fast_path.py", "handle"
"""Where counting begins: the middleware before it is the same for all requests."""


def is_called_by_engine(frame: FrameType) -> bool:
    """Whether the function of ours that called this one, perhaps through a library, is of the engine.

    A compiled function has no caller; only the engine has and calls them.
    """
    caller = frame.f_back
    while caller and not caller.f_code.co_filename.startswith(APP):
        caller = caller.f_back
    return caller is None or caller.f_code.co_filename.startswith(ENGINE)


async def calls_of(client: httpx.AsyncClient, path: str) -> list[tuple[str, str]]:
    """File and name of each distinct function of ours that answers a request on the event loop, from the route on.

    Of the engine only those that are called from outside it; comprehensions belong to their function.
    """
    calls: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        is_ours = event == "call" and file.startswith(APP) and not name.startswith("<")
        if is_ours and not (file.startswith(ENGINE) and is_called_by_engine(frame)):
            calls.setdefault((file.removeprefix(APP), name))

    sys.setprofile(note)
    answer = await client.get(path)
    sys.setprofile(None)
    answer.raise_for_status()
    after_route = list(calls)[list(calls).index(ROUTE) :]
    return [(file, name) for file, name in after_route if not file.startswith(("metrics/", "logs.py"))]


@pytest.fixture
def trained(sqlite_settings: Settings) -> Settings:
    with serving(create_app(sqlite_settings)) as client:
        client.post("/v1/ratings/batch", json={"ratings": planted_ratings()}).raise_for_status()
        rating = {"user_id": "newcomer", "item_id": "space-0", "value": 5}
        database = open_database(sqlite_settings)
        train_now(database, sqlite_settings, Hyperparameters(n_factors=4, n_epochs=10))
        database.dispose()
        client.post("/v1/ratings", json=rating).raise_for_status()
    return sqlite_settings


@pytest.mark.parametrize("user", ["astronaut-2", "newcomer"])
def test_a_list_that_is_not_cached_passes_few_functions_and_files(trained: Settings, user: str) -> None:
    async def calls_of_list() -> list[tuple[str, str]]:
        app = create_app(trained)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            for query in ("?n=100", "?n=2"):  # reads the titles of all items, which later lists share, and the query
                (await client.get(f"/v1/users/other/recommendations{query}")).raise_for_status()
            return await calls_of(client, f"/v1/users/{user}/recommendations?n=2")

    calls = asyncio.run(calls_of_list())
    assert {("recommendations/lists.py", "rank"), ("recommendations/cursor.py", "encoded")} <= set(calls)
    assert len(calls) <= 22, "\n".join(map(" ".join, calls))
    files = {file for file, _ in calls if not file.startswith("engine/")}
    assert len(files) <= 9, files
