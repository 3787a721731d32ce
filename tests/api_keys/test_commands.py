"""`palate keys`, the first key of a migration, and a service that does not open its door to strangers."""

import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.api_keys import keys
from app.cli.__main__ import app
from app.db.engine import open_database
from app.demo.service_process import free_port, running_service
from app.settings import Settings
from tests.conftest import KERNELS


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PALATE_KERNEL_CACHE_DIR", str(KERNELS))
    monkeypatch.setenv("PALATE_TRAINER", "external")


def palate(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])


def test_a_key_is_printed_alone_and_works(tmp_path: Path) -> None:
    made = palate("keys", "create", "web shop", "--scope", "read", "--days", "90")
    token = made.stdout.strip()
    assert made.stdout == f"{token}\n"
    with running_service(tmp_path) as service:
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


def test_a_migration_makes_the_first_key_once(tmp_path: Path) -> None:
    file = tmp_path / "first-key"
    output = palate("migrate", "--first-key", file).output
    token = file.read_text().strip()
    assert token not in output
    file.unlink()
    assert "first" not in palate("migrate", "--first-key", file).output
    assert not file.exists()
    database = open_database(Settings())
    with database.read() as connection:
        [row] = keys.active(connection)
    database.dispose()
    assert (row.scopes, row.digest) == (["admin"], keys.digest_of(token))


def test_where_the_first_key_cannot_be_written_there_is_none(tmp_path: Path) -> None:
    refused = palate("migrate", "--first-key", tmp_path / "missing" / "key")
    assert refused.exit_code == 1
    assert "No such file" in refused.stderr
    assert palate("migrate", "--first-key", tmp_path / "key").exit_code == 0
    assert (tmp_path / "key").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1"])
def test_a_service_without_keys_does_not_listen_to_other_machines(host: str) -> None:
    refused = palate("serve", "--host", host)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"{host} is open to other machines and there are no API keys: ")
    assert "PALATE_AUTH=off" in refused.stderr


def test_a_server_started_without_the_command_answers_only_this_machine(tmp_path: Path) -> None:
    """Another machine is played by a proxy on this one, which tells the server who asks."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=9)) as client:
            assert client.get("/readyz").status_code == 200
            assert client.get("/v1/status").status_code == 200
            refused = client.get("/v1/status", headers={"X-Forwarded-For": "192.0.2.1"})
            assert client.get("/healthz", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 200
    finally:
        server.terminate()
        server.wait()
    assert refused.status_code == 403
    assert refused.json()["detail"].startswith("there are no API keys yet, so only this machine is answered")
