"""`palate keys` as its user sees it."""

import stat
from pathlib import Path

import httpx

from app.demo.service_process import running_service
from tests.cli.runner import palate


def test_a_key_is_printed_alone_and_works(tmp_path: Path) -> None:
    made = palate("keys", "create", "web shop", "--scope", "read", "--days", "90")
    token = made.stdout.strip()
    assert made.stdout == f"{token}\n"
    with running_service(tmp_path / "data", environment={"PALATE_TRAINER": "external"}) as service:
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{service.url}/v1/status", headers=headers).status_code == 200
        assert httpx.get(f"{service.url}/v1/status").status_code == 401
    assert token[13:] not in service.log.read_text()


def test_keys_are_listed_and_revoked_by_name() -> None:
    token = palate("keys", "create", "web", "--scope", "read", "--scope", "write").stdout.strip()
    listed = palate("keys", "list").output
    assert token[:12] in listed
    assert "read write" in listed
    assert token not in listed
    assert palate("keys", "revoke", "web").output == f"API key 'web' ({token[:12]}) is revoked\n"
    assert "revoked" in palate("keys", "list").output
    refused = palate("keys", "revoke", "web")
    assert (refused.exit_code, refused.stderr) == (1, "there is no active API key web\n")


def test_a_name_that_is_taken_is_reported_in_one_line() -> None:
    palate("keys", "create", "web", "--scope", "read")
    refused = palate("keys", "create", "web", "--scope", "read")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("an API key 'web' already exists")


def test_a_file_with_a_key_is_new_and_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("something older")
    refused = palate("keys", "create", "web", "--scope", "read", "--file", file)
    assert (refused.exit_code, file.read_text()) == (1, "something older")
    file.unlink()
    made = palate("keys", "create", "web", "--scope", "read", "--file", file)
    assert made.stdout == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("plt_")
    assert len(file.read_text().splitlines()) == 1
