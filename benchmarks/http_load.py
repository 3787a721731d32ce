"""Load by wrk: one thread, keep-alive connections, requests as fast as they are answered."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

CONNECTIONS = 8

_SCRIPT = """\
done = function(summary, latency, requests)
  io.write(string.format("FIGURES %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one period of load saw."""

    rate: float
    p50: float
    p99: float
    """Milliseconds."""
    errors: int

    def line(self, name: str) -> str:
        return f"{name:<34} {self.rate:8.0f} requests/s   p50 {self.p50:6.2f} ms   p99 {self.p99:6.2f} ms"


def load(url: str, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Ask for one URL on every connection at once; every answer must be a success."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is needed: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT)
        script.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", script.name, url]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"FIGURES (\d+) (\d+) (\S+) (\S+) (\d+)", told)
    assert found, told
    n, micros, p50, p99, errors = (float(each) for each in found.groups())
    if errors:
        raise SystemExit(f"{errors:.0f} of {n:.0f} requests to {url} failed")
    return Load(n / micros * 1e6, p50 / 1e3, p99 / 1e3, int(errors))
