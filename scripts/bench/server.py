"""The server under load: our own, started for this, or one that is running somewhere."""

import contextlib
import ipaddress
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from scripts.archive.name import split_name
from scripts.bench.http_message import Target
from scripts.errors import SeeFoodError
from scripts.paths import ROOT
from scripts.serving.ports import PortError, check_ports

READY_TIMEOUT_S = 300.0  # starting and loading have limits of their own, which end the server earlier
POLL_S = 0.2
PROBE_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 60.0


class BenchError(SeeFoodError):
    """Nothing can be measured; the message says why and what to do."""


def free_port() -> int:
    """A port that is free with those after it that serving takes, too."""
    while True:
        # below the range from which the system gives ports to clients
        port = random.randrange(20000, 32000)
        try:
            check_ports("127.0.0.1", port)
        except PortError:
            continue
        return port


def run_dir_of(port: int) -> Path:
    """Where our own server on this port writes."""
    return ROOT / "build" / f"serve-{port}"


@contextlib.contextmanager
def own_server(archive: Path | None = None, model: str | None = None, release: Path | None = None) -> Iterator[str]:
    """The address of our own server on a free port, serving this archive, or what the release document says.

    BenchError with its output if it does not get ready.
    """
    port = free_port()
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(port), "--run-dir", str(run_dir_of(port))]
    if release is not None:
        command += ["--release", str(release)]
    if archive is not None:
        # by its version, and without SEEFOOD_RELEASE: a release document would choose another
        command += ["--version", split_name(archive)[1], "--model-store", str(archive.parent)]
        command += ["--model", model] if model else []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        # a session of its own: Ctrl-C reaches this script alone, which then ends the server
        environment = {name: value for name, value in os.environ.items() if name != "SEEFOOD_RELEASE"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            if problem := _wait_ready(process, port):
                output.seek(0)
                raise BenchError(f"our server {problem}:\n{output.read().strip()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=STOP_TIMEOUT_S)
            shutil.rmtree(run_dir_of(port), ignore_errors=True)  # its port will not come again


def _wait_ready(process: subprocess.Popen[bytes], port: int) -> str:
    """Wait until /readyz answers 200. Returns why it does not, empty if it does."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return "did not start"
        with contextlib.suppress(httpx.HTTPError):  # not listening yet
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=PROBE_TIMEOUT_S, trust_env=False).is_success:
                return ""
        time.sleep(POLL_S)
    return f"is not ready after {READY_TIMEOUT_S:g} s"


def probe(target: Target) -> None:
    """BenchError unless a server listens there."""
    try:
        socket.create_connection((target.host, target.port), PROBE_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:
        raise BenchError(f"{target.url} does not answer: {error}. Is the server up? Without URL our own is started") from error


def is_local(host: str) -> bool:
    """Whether a server on that host shares this machine's cores."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
