"""Keys as rows and over HTTP."""

from datetime import datetime, timedelta

import httpx
import pytest

from app.api_keys import keys
from app.api_keys.keys import KeyScope, NameTaken, UnknownKey
from app.db.engine import Database
from app.db.tables import utc_now
from app.errors import BadInput


def create(database: Database, name: str, *scopes: KeyScope, expires_at: datetime | None = None) -> keys.NewKey:
    with database.write() as connection:
        return keys.create(connection, name, scopes, utc_now(), expires_at)


def test_a_key_has_256_random_bits_besides_its_prefix_and_only_its_digest_is_stored(database: Database) -> None:
    made = create(database, "web", "write", "read")
    assert made.token.startswith(f"{made.row.prefix}_")
    assert len(made.token) == len(made.row.prefix) + 1 + 43  # 43 characters of base64 hold 256 bits
    assert made.row.digest == keys.digest_of(made.token)
    assert made.token not in str(made.row)
    assert made.row.scopes == ["read", "write"]
    assert create(database, "other", "read").token != made.token


def test_a_name_is_taken_until_its_key_is_revoked(database: Database) -> None:
    first = create(database, "web", "read")
    with pytest.raises(NameTaken):
        create(database, "web", "read")
    with database.write() as connection:
        keys.revoke(connection, "web", utc_now())
    second = create(database, "web", "read")
    assert second.row.id != first.row.id
    with database.read() as connection:
        assert [row.id for row in keys.active(connection)] == [second.row.id]
        assert [row.id for row in keys.history(connection, limit=9)] == [second.row.id, first.row.id]


def test_a_key_is_revoked_once(database: Database) -> None:
    made = create(database, "web", "read")
    with database.write() as connection:
        assert keys.revoke(connection, made.row.id, utc_now()).revoked_at is not None
        with pytest.raises(UnknownKey):
            keys.revoke(connection, made.row.id, utc_now())


@pytest.mark.parametrize(
    ("name", "scopes", "days", "field"),
    [
        ("", ["read"], 1, "name"),
        ("x" * 65, ["read"], 1, "name"),
        ("two\nlines", ["read"], 1, "name"),
        (" web", ["read"], 1, "name"),
        ("web", [], 1, "scopes"),
        ("web", ["read"], -1, "expires_at"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    database: Database, name: str, scopes: list[KeyScope], days: int, field: str
) -> None:
    with pytest.raises(BadInput) as refused:
        create(database, name, *scopes, expires_at=utc_now() + timedelta(days=days))
    assert refused.value.errors[0].field == field
    with database.read() as connection:
        assert not keys.is_any(connection)


def test_keys_are_made_listed_page_by_page_and_revoked_over_http(client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={"name": "admin", "scopes": ["admin"]})
    assert made.status_code == 201
    admin = {"Authorization": f"Bearer {made.json()['key']}"}
    for name in ("one", "two"):
        body = {"name": name, "scopes": ["read"], "expires_at": "2999-01-01T00:00:00Z"}
        assert client.post("/v1/keys", json=body, headers=admin).json()["expires_at"] == "2999-01-01T00:00:00Z"
    page = client.get("/v1/keys?limit=2", headers=admin).json()
    assert [key["name"] for key in page["keys"]] == ["two", "one"]
    rest = client.get(f"/v1/keys?limit=2&cursor={page['next_cursor']}", headers=admin).json()
    assert ([key["name"] for key in rest["keys"]], rest["next_cursor"]) == (["admin"], None)
    assert "key" not in page["keys"][0]
    assert client.delete(f"/v1/keys/{page['keys'][0]['id']}", headers=admin).status_code == 204
    assert client.delete(f"/v1/keys/{page['keys'][0]['id']}", headers=admin).status_code == 404
    assert client.get("/v1/keys", headers=admin).json()["keys"][0]["revoked_at"] is not None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "web", "scopes": []}, "scopes"),
        ({"name": "web", "scopes": ["root"]}, "scopes[0]"),
        ({"name": " web", "scopes": ["read"]}, "name"),
        ({"name": "web", "scopes": ["read"], "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "web", "scopes": ["read"], "expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"name": "web", "scopes": ["read"], "digest": "00"}, "digest"),
    ],
)
def test_an_invalid_key_is_refused_with_the_field(client: httpx.Client, body: dict[str, object], field: str) -> None:
    answer = client.post("/v1/keys", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_asking_for_a_key_again_makes_no_second_one(client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={"name": "admin", "scopes": ["admin"]}).json()
    admin = {"Authorization": f"Bearer {made['key']}"}
    again = client.post("/v1/keys", json={"name": "admin", "scopes": ["admin"]}, headers=admin)
    assert again.status_code == 409
    assert "revoke it first" in again.json()["detail"]
