"""Smoke test of a running stack: `python3 docker/smoke.py [URL]` while `docker compose up [--scale api=3]` runs.

Posts ratings, trains and requests recommendations through the published port. Then it checks that a rating accepted by
one api container is in the next response of every other, and that all serve a new version within two seconds.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.request
from datetime import datetime

URL = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{os.environ.get('PALATE_PORT', '8000')}"
FIRST_KEY = "/var/lib/palate/first-key"
IN_CONTAINER = pathlib.Path(__file__).with_name("smoke_in_container.py").read_text()


def api_key() -> str:
    """PALATE_KEY, or the admin's key that the migration created."""
    if "PALATE_KEY" in os.environ:
        return os.environ["PALATE_KEY"]
    return compose("exec", "-T", "api", "cat", FIRST_KEY).communicate()[0].strip()


def ask(path: str, body: object = None) -> dict[str, object]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {KEY}"} if KEY else {})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers), timeout=30) as answer:
        return json.load(answer)


def compose(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["docker", "compose", *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


KEY = api_key()


def in_each_container(n: int, *arguments: str) -> list[subprocess.Popen[str]]:
    command = ["api", "python", "-c", IN_CONTAINER, *arguments]
    return [compose("exec", "-T", "-e", f"PALATE_KEY={KEY}", "--index", str(i + 1), *command) for i in range(n)]


def results(processes: list[subprocess.Popen[str]]) -> list[str]:
    outputs = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return outputs


def train() -> tuple[int, float]:
    """The published version, and when it was published."""
    run = ask("/v1/training-runs", {"holdout_fraction": 0})  # no gate: in a world this small it is a matter of luck
    while (run := ask(f"/v1/training-runs/{run['id']}"))["status"] in ("queued", "running"):
        time.sleep(0.1)
    assert run["status"] == "succeeded", run
    return int(run["version"]), datetime.fromisoformat(run["finished_at"]).timestamp()


def fill() -> None:
    """Two kinds of users, and items that one kind likes and the other dislikes."""
    ratings = [
        {"user_id": f"user-{u}", "item_id": f"item-{i}", "value": 5 if (u + i) % 2 else 1}
        for u in range(40)
        for i in range(40)
        if (u * 7 + i * 3) % 5
    ]
    ask("/v1/ratings/batch", {"ratings": ratings})


def main() -> None:
    n = len([line for line in compose("ps", "-q", "api").communicate()[0].splitlines() if line])
    fill()
    version, _ = train()
    results(in_each_container(n, "version", str(version)))
    newcomer = f"newcomer-{time.time_ns()}"
    for item in (1, 3, 5):
        ask("/v1/ratings", {"user_id": newcomer, "item_id": f"item-{item}", "value": 5})
    lists = [ask(f"/v1/users/{newcomer}/recommendations?n=5") for _ in range(4 * n)]
    assert {each["source"] for each in lists} == {"folded_in"}, lists
    assert len({json.dumps(each["items"]) for each in lists}) == 1, lists
    liked = [int(item["item_id"].split("-")[1]) % 2 for item in lists[0]["items"]]
    assert liked == [1] * 5, lists[0]
    print(f"version {version} is served; recommendations are as expected, {4 * n} times")

    changes = 20
    for change in range(changes):
        ask("/v1/ratings", {"user_id": newcomer, "item_id": "item-7", "value": 1 + change % 5})
        value = 1 + change % 5
        if change % 5 == 0:
            outputs = results(in_each_container(n, "rating", newcomer, "item-7", str(value)))
            assert outputs == ["seen"] * n, outputs
    print(f"{n} containers: a rating accepted by one was in the next response of each")

    waiting = in_each_container(n, "version", str(version + 1))
    published, at = train()
    assert published == version + 1, published
    late = [float(output) - at for output in results(waiting)]
    assert max(late) < 2, late
    print(f"{n} containers: all serve version {published} after {max(late):.2f} s")


if __name__ == "__main__":
    main()
