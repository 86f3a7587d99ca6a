"""One TorchServe process, started without models, and all processes that it starts. It writes to its own folder alone.

TorchServe, its guard (guard.py) and its workers are one process group. The front end gets config.properties, log4j2.xml and
what front_end.py says it starts from; its addresses (sockets.py) and folders come from the environment (environment.py).

Imports little: the front end is the first thing that a server starts, and the rest is imported while it starts.
"""

import contextlib
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.backend.torchserve.environment import FOLDER as FOLDER
from scripts.backend.torchserve.environment import java_home as java_home
from scripts.backend.torchserve.environment import passed_on
from scripts.backend.torchserve.environment import server_environment as server_environment
from scripts.backend.torchserve.front_end import CONFIG, FrontEnd
from scripts.backend.torchserve.native import native_folder, take_out
from scripts.backend.torchserve.sockets import Addresses, make_short_folder, remove_short_folder
from scripts.backend.torchserve.sockets import ServeError as ServeError
from scripts.errors import FullDiskError, is_full
from scripts.paths import ROOT
from scripts.settings import Settings

if TYPE_CHECKING:
    from scripts.backend.torchserve.management import Server

PID_FILE = "serve.pid"
# what is written below a server's folder; the folder may hold other things
WRITTEN = (
    "archives",
    "captured",
    "drift",
    "feedback",
    "good-*",
    "logs",
    "metrics",
    "native",
    "org",
    "own",
    "patched.jar",
    "programs",
    PID_FILE,
    "sockets",
    "temp",
    "tls",
    "unpacked",
)
PRIVATE_UMASK = 0o077
UP_POLL_S = 0.02
CLASS_DATA = ("-m", "scripts.backend.torchserve.class_data", "--nice")  # not imported: it imports this
LOG_DELAY_S = 0.5  # before its log is read: TorchServe writes it asynchronously
SOCKET_NAME = ".ts.sock.99999"  # a worker's: TorchServe counts from 9000 up


def make_private(run_dir: Path) -> None:
    """Make the folder that a server writes to, readable for its user alone with all that an earlier one left. ServeError.

    Sets this process's umask: logs and captured photos are strangers' business, and an unpacked archive is code.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        status = run_dir.stat()
        if status.st_mode & stat.S_ISVTX or status.st_uid != os.geteuid():
            raise ServeError(f"{run_dir} is not this user's own: choose another --run-dir, which may be a new folder in it")
        os.umask(PRIVATE_UMASK)
        run_dir.chmod(0o700)
        for path in (found for name in WRITTEN for found in run_dir.glob(name)):
            _tighten(path)
            for folder, folders, files in os.walk(path):
                for inside in (*folders, *files):
                    _tighten(Path(folder, inside))
    except OSError as error:
        raise _unwritable(run_dir, error) from error


def _tighten(path: Path) -> None:
    if not path.is_symlink():
        path.chmod(path.stat().st_mode & 0o700)


def _unwritable(run_dir: Path, error: OSError) -> ServeError:
    advice = "make room there" if is_full(error) else "choose another folder by --run-dir"
    return ServeError(f"{run_dir} cannot be written: {error.strerror}: {advice}")


def _prepare(run_dir: Path, min_free_bytes: int) -> None:
    """Empty folders for a new start; fetched archives stay. ServeError if they cannot be written, or the disk is full."""
    try:
        for name in ("logs", "metrics"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
            (run_dir / name).mkdir(parents=True)
        make_short_folder(run_dir / "temp", SOCKET_NAME)
        (run_dir / "unpacked").mkdir(exist_ok=True)
        if folder := native_folder(run_dir):
            take_out(folder)
        free = shutil.disk_usage(run_dir).free
    except OSError as error:
        raise _unwritable(run_dir, error) from error
    if free < min_free_bytes:
        raise ServeError(str(FullDiskError.lacking(run_dir, min_free_bytes, free).strerror))


def remove_passing(run_dir: Path) -> None:
    """Remove what is of use only while TorchServe runs."""
    shutil.rmtree(run_dir / "metrics", ignore_errors=True)
    remove_short_folder(run_dir / "temp")


class TorchServe:
    """A running TorchServe: its front end, its workers, and its folder `run_dir`."""

    def __init__(self, run_dir: Path, addresses: Addresses, settings: Settings, options: Sequence[str] = ()) -> None:
        """Start it with no model, its Java with these `options`, too. ServeError if the disk is full.

        Archives are unpacked in run_dir/unpacked by us, and registered by their folders' names. TorchServe would unpack an
        archive on a thread that answers requests.
        """
        self.run_dir, self.log, self.settings = run_dir, run_dir / "logs" / "torchserve.log", settings
        self.addresses, self._probe_token = addresses, secrets.token_hex(16)
        self.started, self.is_over = time.monotonic(), False  # is_over: it was stopped
        self._maker: subprocess.Popen[bytes] | None = None
        _prepare(run_dir, settings.min_free_bytes)
        for address in addresses:  # of one that was killed
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)
        environment = server_environment(run_dir, addresses, settings) | {"SEEFOOD_PROBE_TOKEN": self._probe_token}
        self.front_end = FrontEnd(Path(environment["JAVA_HOME"]))
        command = [sys.executable, str(FOLDER / "guard.py"), str(settings.stop_timeout_s)]
        command += self._java(Path(environment["TEMP"]), options)
        with (run_dir / "logs" / "console.log").open("w") as console:
            # a session of its own: Ctrl-C reaches our process alone, which then drains before it stops TorchServe
            self.process = subprocess.Popen(
                command,
                cwd=run_dir,
                env=environment,  # the system shows a process's environment to its own user alone
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=PRIVATE_UMASK,
            )

    def _java(self, temp: Path, options: Sequence[str]) -> list[str]:
        """The front end's command line, as `torchserve --start` makes it; that takes a Python of its own, and its own classes."""
        front_end = self.front_end.command(self.run_dir, [f"-Djava.io.tmpdir={temp}", *options])
        front_end += ["--python", sys.executable, "-f", str(CONFIG), "-s", str((self.run_dir / "unpacked").resolve())]
        return [*front_end, "-ncs"]  # no snapshots of its configuration: release documents say what is served

    @cached_property
    def server(self) -> "Server":
        """Where it is called, once it is up."""
        from scripts.backend.torchserve.management import Server, new_client

        client = new_client(self.settings.management_timeout_s, *self.addresses)
        return Server(self.addresses.management, self.addresses.inference, probe_token=self._probe_token, client=client)

    def keep_classes(self) -> None:
        """Have what the next start maps its classes from made in the background, unless it is there. It ends with TorchServe."""
        if not self.front_end.lacks_archive or self._maker is not None:
            return
        command = [sys.executable, str(FOLDER / "guard.py"), "10", sys.executable, *CLASS_DATA]
        command += ["--base", str(self.front_end.base)]
        environment = passed_on(os.environ) | {"PYTHONPATH": str(ROOT), "JAVA_HOME": str(self.front_end.java.parents[1])}
        with contextlib.suppress(OSError), (self.run_dir / "logs" / "classes.log").open("w") as log:  # no process left, say
            self._maker = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.process.poll() is not None

    def wait_until_up(self) -> None:
        """Return once the management API answers. ServeError with its last log lines if it ends or hangs."""
        from scripts.backend.torchserve.management import responds

        deadline = time.monotonic() + self.settings.start_timeout_s
        while not responds(self.server):
            if self.ended:
                self.front_end.forget()  # in case that it was what it started from
                raise ServeError(f"TorchServe ended while starting:\n{self.last_log_lines()}")
            if time.monotonic() > deadline:
                raise ServeError(f"TorchServe did not answer within {self.settings.start_timeout_s:g} s:\n{self.last_log_lines()}")
            time.sleep(UP_POLL_S)

    def last_log_lines(self) -> str:
        """The end of its logs, for an error message."""
        time.sleep(LOG_DELAY_S)
        lines = []
        for path in (self.run_dir / "logs" / "console.log", self.log):
            if path.is_file():
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        return "\n".join("  " + line[:300] for line in lines) + f"\n  (complete logs: {self.run_dir / 'logs'})"

    def stop(self, now: bool = False) -> None:
        """End it with all its workers, `now` by SIGKILL, and remove what it wrote except its logs. Once it is over: nothing."""
        if self.is_over:
            return
        self.is_over = True
        if self._maker is not None:
            assert self._maker.stdin is not None
            self._maker.stdin.close()  # which ends it
        assert self.process.stdin is not None
        # the guard ends the group when its pipe is closed, by SIGKILL if it has got a byte before; it may have ended already
        with contextlib.suppress(BrokenPipeError, ValueError):
            if now:
                self.process.stdin.write(b"!")
                self.process.stdin.flush()
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5 if now else self.settings.stop_timeout_s + 5)
        with contextlib.suppress(ProcessLookupError):  # in case the guard itself was killed
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self._maker is not None:
            self._maker.wait()
        if "server" in self.__dict__:
            self.server.client.close()
        remove_passing(self.run_dir)
