"""The part of smoke.py that runs inside an api container: `rating USER ITEM VALUE` or `version NUMBER`."""

import json
import os
import sys
import time
import urllib.request

KEY = os.environ.get("PALATE_KEY", "")


def ask(path: str) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    request = urllib.request.Request("http://127.0.0.1:8000" + path, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def check_rating(user: str, item: str, value: str) -> None:
    """A list excludes items that the user has rated: both processes of the container must know the rating."""
    for _ in range(8):
        rating = ask(f"/v1/users/{user}/ratings/{item}")
        assert rating["value"] == float(value), rating
        items = ask(f"/v1/users/{user}/recommendations?n=40")["items"]
        assert item not in [each["item_id"] for each in items], items
    print("seen")


def await_version(number: str) -> None:
    """Time from which every process serves the version: eight responses in a row come from it."""
    deadline, seen, since = time.time() + 100, 0, 0.0
    while seen < 8 and time.time() < deadline:
        is_new = ask("/v1/items/popular?n=1")["model_version"] == int(number)
        seen, since = (seen + 1, since if seen else time.time()) if is_new else (0, 0.0)
        time.sleep(0.02)
    assert seen >= 8, "it never came"
    print(since)


if sys.argv[1] == "rating":
    check_rating(*sys.argv[2:])
else:
    await_version(*sys.argv[2:])
