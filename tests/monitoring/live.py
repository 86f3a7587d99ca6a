"""A real Prometheus with the shipped configuration, and what is asked of it."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import LIMIT_S
from tests.monitoring.rules import PROMETHEUS
from tests.waiting import until

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not here: Debian's package of that name has it"
)


class Prometheus:
    """One that runs. `targets` is its file of targets."""

    def __init__(self, port: int, targets: Path) -> None:
        self.url, self.targets = f"http://127.0.0.1:{port}", targets

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=LIMIT_S).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expr: str) -> list[float]:
        """The values of an instant query's series."""
        return [float(one["value"][1]) for one in self.ask("query", query=expr)["result"]]

    def alerts(self) -> dict[str, Any]:
        """The alerts that fire, by name."""
        return {one["labels"]["alertname"]: one for one in self.ask("alerts")["alerts"] if one["state"] == "firing"}

    def wait(self, true) -> float:
        """Seconds until `true()`."""
        began = time.monotonic()
        until(true, lambda: list(self.alerts()), pause_s=0.5)
        return time.monotonic() - began


@contextlib.contextmanager
def prometheus(folder: Path, server_port: int) -> Iterator[Prometheus]:
    """The shipped configuration and rules, with this server as the only target."""
    shutil.copytree(PROMETHEUS, folder / "etc")
    targets = folder / "etc" / "targets" / "laptop.yml"
    targets.write_text(targets.read_text().replace("8082", str(server_port + 2)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["prometheus", f"--config.file={folder}/etc/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with subprocess.Popen(command) as process:
        try:
            found = Prometheus(port, targets)
            until(lambda: _answers(found.url), process=process)
            yield found
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/-/ready").is_success
    return False
