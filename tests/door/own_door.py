"""A door's process of its own, with other settings, in front of a TorchServe that runs."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import LIMIT_S, ROOT, free_port
from tests.door.raw import Answer, read_answer, request
from tests.waiting import until

STATE = {"live": True, "ready": True, "models": {"seefood": {"default": "0.5.0", "versions": {"0.5.0": {}}}}}


def sockets_of(port: int) -> Path:
    """Where TorchServe listens behind a server."""
    return (ROOT / "build" / f"serve-{port}" / "sockets").resolve()


class Door:
    """A door's process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: Path) -> None:
        self.process, self.port, self.output = process, port, output

    def written(self, stream: str = "stdout") -> list[str]:
        """The lines of its standard output, or of "stderr"."""
        return (self.output / stream).read_text().splitlines()

    def tell(self, state: object) -> None:
        """As serve does."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(state).encode() + b"\n")
        self.process.stdin.flush()
        until(lambda: self.ask(request("/readyz", method="GET")).status == 200)

    def ask(self, sent: bytes, port: int = 0) -> Answer:
        """The answer to these bytes."""
        with socket.create_connection(("127.0.0.1", port or self.port), LIMIT_S) as connection:
            connection.sendall(sent)
            with connection.makefile("rb") as stream:
                return read_answer(stream)


@contextlib.contextmanager
def door(sockets: Path, **settings: object) -> Iterator[Door]:
    """A door with these settings in front of TorchServe's sockets."""
    port = free_port()
    command = [sys.executable, "-m", "scripts.door.door", "--port", str(port)]
    command += [f"--{name}=unix:{sockets / socket}" for name, socket in (("backend", "inference"), ("management", "management"))]
    environment = os.environ | {f"SEEFOOD_{name.upper()}": str(value) for name, value in settings.items()}
    with contextlib.ExitStack() as stack:
        output = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        out, err = (stack.enter_context((output / name).open("wb")) for name in ("stdout", "stderr"))
        process = stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=err)
        )
        stack.callback(process.kill)
        one = Door(process, port, output)
        until(lambda: is_open(port), lambda: one.written("stderr"), process)
        yield one


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
