"""A service without keys is not open to other machines."""

import subprocess
import sys

import httpx
import pytest

from app.demo.service_process import free_port
from tests.cli.runner import palate


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1"])
def test_a_service_without_keys_does_not_listen_to_other_machines(host: str) -> None:
    refused = palate("serve", "--host", host)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"{host} is open to other machines and there are no API keys: ")
    assert "PALATE_AUTH=off" in refused.stderr


def test_a_server_started_without_the_command_answers_only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine is played by a proxy on this one, which tells the server who asks."""
    monkeypatch.setenv("PALATE_TRAINER", "external")
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
