"""Firefox by Marionette, its own remote control: a packet is its length, a colon and JSON.

https://firefox-source-docs.mozilla.org/testing/marionette/Protocol.html
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import LIMIT_S, free_port
from tests.waiting import until

FIREFOX = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox") or ""


class Firefox:
    """A window."""

    def __init__(self, port: int) -> None:
        self.socket = connection(port)
        self.read = self.socket.makefile("rb")
        self._packet()  # it greets
        self._number = 0

    def close(self) -> None:
        self.read.close()
        self.socket.close()

    def _packet(self) -> Any:
        digits = b""
        while (byte := self.read.read(1)) != b":":
            assert byte, "Firefox has ended"
            digits += byte
        return json.loads(self.read.read(int(digits)))

    def ask(self, command: str, **parameters: Any) -> Any:
        """The result of a command of WebDriver; AssertionError if it fails."""
        self._number += 1
        packet = json.dumps([0, self._number, f"WebDriver:{command}", parameters]).encode()
        self.socket.sendall(b"%d:%b" % (len(packet), packet))
        _, number, error, result = self._packet()
        assert (number, error) == (self._number, None), error
        return result

    def run(self, script: str, *arguments: object) -> Any:
        """What a script returns."""
        return self.ask("ExecuteScript", script=script, args=arguments)["value"]

    def wait(self, script: str, *arguments: object) -> Any:
        """What a script returns, once that is true."""
        return until(lambda: self.run(script, *arguments), lambda: script)

    def find(self, selector: str) -> str:
        """The id of an element."""
        (element,) = self.ask("FindElement", using="css selector", value=selector)["value"].values()
        return str(element)


def connection(port: int) -> socket.socket:
    """To Marionette, once it listens."""

    def connected() -> socket.socket | None:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        return None

    return until(connected, lambda: "Firefox does not listen")


@contextlib.contextmanager
def firefox(folder: Path, languages: str) -> Iterator[Firefox]:
    """Firefox without a screen, its profile in an empty folder."""
    port = free_port()
    settings = {"marionette.port": port, "intl.accept_languages": languages, "datareporting.policy.dataSubmissionEnabled": False}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in settings.items()]
    (folder / "user.js").write_text("\n".join(lines))
    command = [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", str(folder)]
    environment = os.environ | {"HOME": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            window = Firefox(port)
            window.ask("NewSession", capabilities={})
            yield window
            window.close()
        finally:
            process.terminate()
