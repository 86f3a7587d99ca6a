"""The door (scripts/door) as a child of the server: started first, told what is served, restarted when it ends or hangs.

It gets one line of JSON each second and at each change (scripts/door/state.py), on a pipe that also ends it: when the pipe is
closed, or this process is gone, it takes no more connections, answers what it has, and ends.
"""

import codecs
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from scripts.backend.torchserve.environment import passed_on
from scripts.backend.torchserve.management import answers
from scripts.backend.torchserve.sockets import Addresses, ServeError
from scripts.paths import ROOT
from scripts.serving.health import MISSES
from scripts.serving.plain_text import PlainText, fields_of
from scripts.settings import Settings
from scripts.steps import Steps

MODULE = "scripts.door.door"
LINE_S = 1.0
# how soon a change is told, and an end noticed
TICK_S = 0.05
UP_POLL_S = 0.02  # while it starts
KEPT_LINES = 20
PIECE = 65536  # bytes of its words at a time, the size of a pipe


def local_host(host: str) -> str:
    """The host by which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def local_address(host: str, port: int, settings: Settings) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    here = local_host(host)
    return f"{'https' if settings.cert else 'http'}://{f'[{here}]' if ':' in here else here}:{port}"


def door_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the door finds in its environment: the harmless part, its token, OpenTelemetry's variables, and the settings.

    Of these, not where releases are.
    """
    names = {f"SEEFOOD_{setting.name.upper()}" for setting in fields(Settings)} - {"SEEFOOD_RELEASE"} | {"SEEFOOD_MANAGEMENT_TOKEN"}
    own = {name: value for name, value in environment.items() if name in names or name.startswith("OTEL_")}
    return passed_on(environment) | own


class Door:
    """The door on `port`, and on the one after it for TorchServe's management API, inside `with`."""

    def __init__(
        self,
        host: str,
        port: int,
        addresses: Addresses,
        settings: Settings,
        steps: Steps,
        state: Callable[[], Mapping[str, Any]],
        feedback: Path | None = None,
    ) -> None:
        """`state()` is what it is told; `feedback` the socket that takes feedback. TorchServe need not be up yet."""
        self.address, self.settings, self.steps, self._state = local_address(host, port, settings), settings, steps, state
        self._command = [sys.executable, "-m", MODULE, "--host", host, "--port", str(port)]
        self._command += ["--backend", addresses.inference, "--management", addresses.management]
        if settings.cert:
            self._command += ["--cert", str(Path(settings.cert).resolve())]
            self._command += ["--key", str(Path(settings.key or settings.cert).resolve())]
        if feedback:
            self._command += ["--feedback", str(feedback)]
        # where photos are kept, and so feedback on them
        self._environment = door_environment(os.environ) | {"SEEFOOD_CAPTURE_DIR": settings.capture_dir}
        self._process: subprocess.Popen[str] | None = None
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self.restarts = 0
        self._misses, self._answered_at, self._up = 0, time.monotonic(), False
        self._began, self._wait_s = time.monotonic(), settings.restart_wait_s  # of a series of starts
        self._over = threading.Event()
        self._threads = [threading.Thread(target=run, name="door", daemon=True) for run in (self._tell, self._watch)]

    def __enter__(self) -> Self:
        """Start it, and wait until it is up. ServeError as wait_until_up()."""
        try:
            self.start()
            self.wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    @property
    def answers(self) -> bool:
        """Whether it has answered one of the last looks."""
        return self._misses < MISSES

    def start(self) -> None:
        """Start it, and do not wait; from now on it is told what is served, and has to be stopped."""
        self._start()
        self._threads[0].start()

    def _start(self) -> None:
        process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches our process alone, which ends the door in order
        )
        self._process, self._misses, self._answered_at, self._up = process, MISSES, time.monotonic(), False
        try:
            threading.Thread(target=self._listen, args=(process,), name="door's words", daemon=True).start()
        except RuntimeError:  # no room for one: a door whose words nobody reads would stand still when their pipe is full
            process.kill()
            raise

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr as stderr:
            text, decoder = PlainText(self._log), codecs.getincrementaldecoder("utf-8")("replace")
            # as it comes: a text without a newline must not wait for one, nor fill the memory
            while piece := os.read(stderr.fileno(), PIECE):
                text.write(decoder.decode(piece))
            text.end()

    def _log(self, message: str) -> None:
        self._said.extend(message.splitlines())
        self.steps("door", **fields_of(message))

    def wait_until_up(self) -> None:
        """Return once it answers; from then on it is watched. ServeError with its own words if it ends, or does not answer."""
        if self._threads[1].ident is not None:
            return
        assert self._process is not None
        deadline = time.monotonic() + self.settings.start_timeout_s
        while not answers(self.address, "/livez", self.settings.look_timeout_s):
            if self._process.poll() is not None:
                time.sleep(TICK_S)  # for its last words
                said = self._said[-1].removeprefix("error: ") if self._said else f"status {self._process.returncode}"
                raise ServeError(f"the door does not start: {said}")
            if time.monotonic() > deadline:
                raise ServeError(f"the door did not answer within {self.settings.start_timeout_s:g} s")
            time.sleep(UP_POLL_S)
        self._misses, self._up = 0, True
        self._threads[1].start()

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """What no code foresaw, as no room for a thread, must not end a thread: nobody would tell the door, or start it again."""
        try:
            yield
        except Exception as error:
            self.steps("unexpected", why=f"{type(error).__name__}: {error}")
            self._over.wait(self.settings.restart_wait_s)

    def _tell(self) -> None:
        """Write what is served, each second and at each change."""
        told, told_at, told_to = "", 0.0, None
        while not self._over.wait(TICK_S):
            with self._going_on():
                line, process = json.dumps(self._state()) + "\n", self._process
                if line != told or process is not told_to or time.monotonic() - told_at >= LINE_S:
                    assert process is not None
                    _write(process, line)
                    told, told_at, told_to = line, time.monotonic(), process

    def _watch(self) -> None:
        """Start it again when it has ended, or has not answered for too long."""
        next_look = 0.0
        while not self._over.wait(TICK_S):
            with self._going_on():
                assert self._process is not None
                if self._process.poll() is not None:
                    self._start_again()
                elif time.monotonic() >= next_look:
                    self._look()
                    next_look = time.monotonic() + self.settings.look_s

    def _start_again(self) -> None:
        """After a wait, which doubles in a series of failures."""
        settings = self.settings
        assert self._process is not None
        if time.monotonic() - self._began > settings.restart_wait_max_s:  # it ran for a while: not one of a series
            self._wait_s = settings.restart_wait_s
        self._misses = MISSES
        self.steps("the door ended by itself", status=self._process.returncode, restart_in_s=self._wait_s)
        if self._over.wait(self._wait_s):
            return
        self._wait_s, self._began = min(2 * self._wait_s, settings.restart_wait_max_s), time.monotonic()
        _close(self._process)
        self.restarts += 1
        self._start()

    def _look(self) -> None:
        began = time.monotonic()
        if answers(self.address, "/livez", self.settings.look_timeout_s):
            self._misses, self._answered_at, self._up = 0, time.monotonic(), True
            return
        self._misses += 1
        # this process may have been stopped meanwhile: then nobody looked
        looked_s = self._misses * (self.settings.look_s + self.settings.look_timeout_s)
        self._answered_at = max(self._answered_at, began - looked_s)
        limit_s = self.settings.repair_s if self._up else self.settings.start_timeout_s
        if time.monotonic() - self._answered_at > limit_s:
            self.steps("repair", what="door restarted", why=f"it has not answered for {limit_s:g} s")
            assert self._process is not None
            self._process.kill()

    def drain(self, timeout_s: float) -> bool:
        """End it: no new connections, and whether within the limit all that it has was answered."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._leave() and self._process.wait(timeout_s) == 0
        return False

    def stop(self) -> None:
        """End it at once, if it still runs."""
        self._over.set()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            _close(self._process)

    def _leave(self) -> bool:
        """Close its pipe. False if it does not read, and a thread waits for it in vain."""
        self._over.set()
        for thread in (one for one in self._threads if one.ident is not None):
            thread.join(self.settings.look_timeout_s + 1)
        assert self._process is not None
        if any(thread.is_alive() for thread in self._threads):
            return False
        _close(self._process)
        return True


def _write(process: "subprocess.Popen[str]", line: str) -> None:
    """To its pipe. It may have ended, and is then started again; if it hangs, this waits until it is."""
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):
        process.stdin.write(line)
        process.stdin.flush()


def _close(process: "subprocess.Popen[str]") -> None:
    """Close the pipe to it, whether it is still there or not."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
