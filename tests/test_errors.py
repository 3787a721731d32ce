"""What is wrong with a body is told like everything that is wrong with the input."""

import httpx
import pytest


@pytest.mark.parametrize("path", ["/v1/ratings", "/v1/recommendations", "/v1/predictions", "/v1/training-runs"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": 1,}', "is not JSON: "),
        (b'{"a": "\xff"}', "is not UTF-8: byte 7 cannot be read"),
        (b"[" * 100_000, "is nested too deeply"),
    ],
    ids=["no JSON", "no UTF-8", "too deep"],
)
def test_a_body_that_cannot_be_read_is_bad_input(
    sqlite_client: httpx.Client, path: str, body: bytes, message: str
) -> None:
    answer = sqlite_client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    [error] = answer.json()["errors"]
    assert error["field"] == "body"
    assert error["message"].startswith(message)
    assert answer.json()["detail"] == f"body: {error['message']}"


def test_malformed_json_is_told_with_position_and_reason(sqlite_client: httpx.Client) -> None:
    answer = sqlite_client.post("/v1/ratings", content=b'{"a": nope}', headers={"Content-Type": "application/json"})
    assert answer.json()["errors"] == [{"field": "body", "message": "is not JSON: Expecting value at character 6"}]


def test_a_method_that_a_path_does_not_have_is_a_problem_that_names_those_it_has(sqlite_client: httpx.Client) -> None:
    answer = sqlite_client.put("/v1/status")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.headers["content-type"] == "application/problem+json"
