"""The page in a real browser, against a real service: rate, watch the list move, train, go back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.api_keys.commands import make_key
from app.api_keys.keyring import REFRESH_EVERY
from app.db.engine import open_database
from app.demo.service_process import RunningService, running_service
from app.demo.world import sample_world, write_ratings_csv
from app.settings import Settings
from tests.conftest import KERNELS, skip_or_fail
from tests.dashboard.browser import Tab, browser_path, browser_tab

EVIL = "<img src=x onerror=\"document.title='owned'\"> & <b>bold</b>"
ENVIRONMENT = {"PALATE_KERNEL_CACHE_DIR": str(KERNELS), "PALATE_RETRAIN_ENABLED": "false"}
ROWS = "document.querySelectorAll('#recommendations li').length"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A small sample world in which a title is markup, and model version 1 trained on it."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, environment=ENVIRONMENT) as service:
        _fill(service.url, folder)
        yield service


@pytest.fixture
def tab(service: RunningService, tmp_path: Path) -> Iterator[Tab]:
    path = browser_path()
    if path is None:
        skip_or_fail("no Chromium on the search path; set PALATE_TEST_BROWSER to one")
    with browser_tab(path, tmp_path) as tab:
        tab.open(service.url)
        tab.wait_for(f"{ROWS} === 10 && document.querySelectorAll('#items .item').length > 0")
        yield tab
        assert tab.complaints == []


def test_a_title_that_is_markup_is_shown_as_text(tab: Tab) -> None:
    tab.click("#search")
    tab.type("onerror")
    tab.wait_for("document.querySelectorAll('#items .item').length === 1")
    assert tab.text("#items .title") == EVIL
    assert tab.value("document.title") == "Palate"


def test_a_click_on_the_fourth_star_rates_four_and_moves_the_list(tab: Tab, service: RunningService) -> None:
    before = tab.text("#recommendations")
    tab.click("#items .item:nth-child(2) input", share=0.75)
    tab.wait_for("document.querySelector('#user-note').innerText === '1 rating'")
    tab.wait_for("document.querySelector('#answer').innerText.includes('from your current ratings')")
    assert [rating["value"] for rating in _ratings_of(service, tab)] == [4.0]
    assert tab.text("#recommendations") != before
    assert tab.value("document.querySelectorAll('#recommendations .move:not(:empty)').length") > 0


def test_arrow_keys_rate_too_and_the_left_end_takes_the_rating_back(tab: Tab, service: RunningService) -> None:
    tab.value("document.querySelector('#items .item:nth-child(3) input').focus()")
    for _ in range(3):
        tab.press("ArrowRight")
    tab.wait_for("document.querySelector('#user-note').innerText === '1 rating'")
    assert [rating["value"] for rating in _ratings_of(service, tab)] == [1.5]
    for _ in range(3):
        tab.press("ArrowLeft")
    tab.wait_for("document.querySelector('#user-note').innerText === 'no ratings yet'")
    assert _ratings_of(service, tab) == []


def test_another_user_sees_their_own_stars(tab: Tab, service: RunningService) -> None:
    user_id = "zoë & co?"
    item_id = httpx.get(f"{service.url}/v1/items/popular").json()["items"][0]["item_id"]
    httpx.put(f"{service.url}/v1/users/{quote(user_id)}/ratings/{item_id}", json={"value": 2.5}).raise_for_status()
    tab.value("document.querySelector('#user-id').select()")
    tab.type(user_id)
    tab.click("#who button")
    tab.wait_for("document.querySelector('#user-note').innerText === '1 rating'")
    tab.wait_for("document.querySelector('#items .item input').value === '2.5'")


def test_training_is_shown_until_its_version_answers_and_an_older_one_can_be_activated(tab: Tab) -> None:
    newest = int(tab.text("#versions th"))
    tab.click("#train")
    tab.wait_for("document.querySelector('#run').innerText.includes('succeeded')")
    tab.wait_for(f"document.querySelector('#active').innerText === 'Version {newest + 1} is active.'")
    assert tab.value("document.querySelectorAll('#chart path.holdout')[0].getAttribute('d').length") > 50
    tab.wait_for(f"document.querySelector('#versions tr.active th').innerText === '{newest + 1}'")
    tab.click("#versions tr:nth-child(2) td:last-child button")
    tab.wait_for(f"document.querySelector('#versions tr.active th').innerText === '{newest}'")
    tab.wait_for(f"document.querySelector('#active').innerText === 'Version {newest} is active.'")


def test_a_version_is_shown_beside_the_active_one_by_its_quality_report(tab: Tab) -> None:
    newest = int(tab.text("#versions th"))
    tab.click("#train")
    tab.wait_for(f"document.querySelector('#versions tr.active th').innerText === '{newest + 1}'")
    tab.click("#versions tr:nth-child(2) button")
    tab.wait_for("document.querySelectorAll('#quality-head th').length === 3")
    assert tab.text("#quality-head th:nth-child(3)").endswith("active")
    rows = tab.value("[...document.querySelectorAll('#measures tr')].map((row) => row.innerText)")
    assert any(row.startswith("RMSE\t0.") for row in rows)
    assert any("inside" in row for row in rows)


def test_a_search_is_started_followed_and_shown_with_its_plot(tab: Tab) -> None:
    tab.value("document.querySelector('#n-trials').value = 3")
    tab.click("#publish")
    tab.click("#start-search")
    tab.wait_for("document.querySelector('#search-status').innerText.includes('is done · 3 of 3 trials · best')")
    assert tab.value("document.querySelectorAll('#best-trials tr.active').length") == 1
    tab.wait_for("document.querySelector('#plot').naturalWidth > 100")


def test_what_the_service_refuses_is_said_in_its_own_words(tab: Tab, service: RunningService) -> None:
    tab.click("#train")
    tab.wait_for("document.querySelector('#run').innerText.includes('succeeded')")
    tab.wait_for("document.querySelector('#versions td:last-child button')")
    gone = int(tab.value("document.querySelector('#versions td:last-child button').closest('tr').firstChild.innerText"))
    httpx.delete(f"{service.url}/v1/models/{gone}").raise_for_status()
    tab.click("#versions td:last-child button")
    tab.wait_for("!document.querySelector('#message').hidden")
    assert tab.text("#message") == f"model version {gone} does not exist"
    tab.complaints.clear()  # the browser notes the refused request by itself


def test_the_page_asks_for_a_key_where_one_is_needed_and_works_with_it(tmp_path: Path) -> None:
    with _service_with_a_key(tmp_path) as (service, token, tab):
        _fill(service.url, tmp_path, token)
        tab.open(service.url)
        tab.wait_for("document.querySelector('#ask-key')?.hidden === false")
        assert "an API key is required" in tab.text("#message")
        tab.click("#api-key")
        tab.type(token)
        tab.click("#ask-key button")
        tab.wait_for(f"{ROWS} === 10")
        assert tab.value("document.querySelector('#ask-key').hidden")
        tab.click("#train")  # whose progress comes as events
        tab.wait_for("document.querySelector('#run').innerText.includes('succeeded')")
        complaints = [each for each in tab.complaints if "401" not in each]
        assert complaints == []


def test_the_authorize_button_of_the_documents_sends_the_key_with_what_is_tried_out(tmp_path: Path) -> None:
    with _service_with_a_key(tmp_path) as (service, token, tab):
        tab.open(f"{service.url}/docs")
        tab.wait_for("document.querySelector('button.authorize')")
        tab.click("button.authorize")
        tab.wait_for("document.querySelector('.auth-container input')")
        tab.click(".auth-container input")
        tab.type(token)
        tab.click(".auth-btn-wrapper button[type=submit]")
        tab.wait_for("document.querySelector('.auth-container').innerText.includes('Authorized')")
        tab.click(".btn-done")
        keys = "#operations-keys-list_keys"
        tab.wait_for(f"document.querySelector('{keys}')")
        tab.click(f"{keys} .opblock-summary-path")
        tab.wait_for(f"document.querySelector('{keys} .try-out__btn')")
        tab.click(f"{keys} .try-out__btn")
        tab.wait_for(f"document.querySelector('{keys} .execute')")
        tab.click(f"{keys} .execute")
        tab.wait_for(f"document.querySelector('{keys} .live-responses-table .response .response-col_status')")
        assert tab.text(f"{keys} .live-responses-table .response .response-col_status").startswith("200")
        assert '"name": "somebody"' in tab.text(f"{keys} .live-responses-table .response .microlight")


@contextmanager
def _service_with_a_key(folder: Path) -> Iterator[tuple[RunningService, str, Tab]]:
    """A service that asks for keys, one of an admin's, and a browser."""
    path = browser_path()
    if path is None:
        skip_or_fail("no Chromium on the search path; set PALATE_TEST_BROWSER to one")
    settings = Settings(data_dir=folder / "service")
    with running_service(settings.data_dir, environment=ENVIRONMENT) as service:
        database = open_database(settings)
        token = make_key(database, "somebody", ["admin"], None, None).token
        database.dispose()
        time.sleep(2 * REFRESH_EVERY)
        with browser_tab(path, folder / "profile") as tab:
            yield service, token, tab


def _ratings_of(service: RunningService, tab: Tab) -> list[dict[str, Any]]:
    user_id = tab.value("document.querySelector('#user-id').value")
    ratings: list[dict[str, Any]] = httpx.get(f"{service.url}/v1/users/{user_id}/ratings").json()["ratings"]
    return ratings


def _fill(url: str, folder: Path, token: str = "") -> None:
    world = sample_world(n_users=80, n_items=90, n_ratings=3000)
    write_ratings_csv(world, folder / "ratings.csv")
    items = [{"item_id": film.item_id, "title": film.title, "categories": film.categories} for film in world.items]
    items[0]["title"] = EVIL
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        client.post("/v1/items/batch", json={"items": items}).raise_for_status()
        client.post("/v1/ratings/import", content=(folder / "ratings.csv").read_bytes()).raise_for_status()
        run = client.post("/v1/training-runs", json={}).raise_for_status().json()
        with client.stream("GET", f"/v1/training-runs/{run['id']}/events") as events:
            events.read()  # ends with the run
        assert client.get("/v1/models").json()["models"]
