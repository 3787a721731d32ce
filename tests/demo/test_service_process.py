"""The service as a child process."""

import socket
from pathlib import Path

import pytest

from app.demo.service_process import ServiceDidNotStart, running_service


def test_a_service_is_not_taken_for_another_that_listens_on_its_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServiceDidNotStart, match=f"cannot listen on port {port}"):  # noqa: SIM117
            with running_service(tmp_path, port=port):
                pass
