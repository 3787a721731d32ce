import httpx
import pytest

PATHS = ["/v1/models", "/v1/searches", "/v1/training-runs", "/v1/keys"]


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_list_is_one_page_without_a_next_cursor(sqlite_client: httpx.Client, path: str) -> None:
    assert sqlite_client.get(path).json()["next_cursor"] is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("query", ["cursor=abc", "cursor=-1", "limit=0", "limit=101"])
def test_a_page_that_cannot_exist_is_refused(sqlite_client: httpx.Client, path: str, query: str) -> None:
    assert sqlite_client.get(f"{path}?{query}").status_code == 422
