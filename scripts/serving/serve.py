"""Serve a release: `python -m scripts.serving.serve`, in the foreground until Ctrl-C or SIGTERM; `--stop` ends one from elsewhere.

Runs TorchServe with config.properties and keeps it converged to the release document (scripts/release/document.py), which it reads
again every few seconds: model_store/release.json, which is written for the newest archive where nobody has rolled anything
out yet; with --version, a document of its own. TorchServe is started again when it dies. /livez and /readyz tell how it is,
and a status beside the release document tells where it is on its way. All else that it writes lies in build/serve-PORT/.

On SIGTERM: not ready at once, but serving for SEEFOOD_GRACE_S; then what is queued and running is waited for, and TorchServe
is stopped. A second signal stops it at once. Even after SIGKILL nothing of it is left running
(scripts/backend/torchserve/guard.py).
"""

import argparse
import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import psutil

from scripts.archive.build import MODEL, archive_version, choose_archive, find_archives, precedence
from scripts.backend.torchserve.management import ManagementError
from scripts.backend.torchserve.process import ServeError, TorchServe, local_address
from scripts.paths import ROOT
from scripts.release.document import ReleaseError, entry_of, make, parse, write
from scripts.release.store import FolderStore, Store, StoreError, open_store
from scripts.serving.health import Health, HealthServer
from scripts.serving.instance import UNEXPECTED, Instance, Problem
from scripts.serving.metrics import MetricsServer
from scripts.serving.ports import PortError, check_ports
from scripts.serving.reporter import Reporter, Stopped
from scripts.settings import Settings, ports_of
from scripts.steps import Steps

SELF = "serve.py"
TICK_S = 0.1


class Serving:
    """TorchServe kept running, and converged."""

    def __init__(self, instance: Instance, run_dir: Path, host: str, port: int) -> None:
        self.instance, self.run_dir, self.host, self.port = instance, run_dir, host, port
        self.settings, self.steps, self.health = instance.settings, instance.steps, instance.health
        self.torchserve: TorchServe | None = None
        self.started, self.announced = time.monotonic(), False

    def run(self) -> None:
        """Serve until a signal comes. ServeError if it cannot even begin."""
        wait_s = self.settings.restart_wait_s
        while True:
            began = time.monotonic()
            try:
                self._start()
                self._go_on()
                words = self.torchserve.last_words() if self.torchserve else ""
            except ServeError as error:
                if not self.announced:
                    raise
                words = str(error)
            self.instance.lost()
            if self.torchserve is not None:
                self.torchserve.stop(now=True)
            if time.monotonic() - began > self.settings.restart_wait_max_s:
                wait_s = self.settings.restart_wait_s
            self.steps("TorchServe ended by itself", again_in_s=wait_s, last_words="\n" + words)
            self._sleep(wait_s)
            wait_s = min(2 * wait_s, self.settings.restart_wait_max_s)

    def _start(self) -> None:
        self.torchserve = TorchServe(self.run_dir, self.host, self.port, self.settings)
        self.torchserve.wait_until_up()
        self.instance.start(self.torchserve)
        self.steps("TorchServe is up", after_s=time.monotonic() - self.started)

    def _go_on(self) -> None:
        """Return when TorchServe has ended, or has not answered for so long that it hangs."""
        instance, answered = self.instance, time.monotonic()
        assert self.torchserve is not None
        while not self.torchserve.ended:
            try:
                instance.look()
                instance.converge()
                answered = time.monotonic()
            except ManagementError as error:
                self.steps("TorchServe does not answer", why=error)
                if time.monotonic() - answered > self.settings.start_timeout_s:
                    return
            except Exception as error:
                # whatever it is that nobody thought of: what serves goes on serving, and the status says why
                instance.problems[UNEXPECTED] = Problem(f"{type(error).__name__}: {error}", True)
                self.steps("unexpected", why=instance.problems[UNEXPECTED].why, traceback="\n" + traceback.format_exc())
            else:
                instance.problems.pop(UNEXPECTED, None)
            if not self.announced:
                self._announce()
            self._sleep(TICK_S if instance.loaded and not self.announced else self.settings.poll_s)

    def _announce(self) -> None:
        instance = self.instance
        if instance.default is None and instance.state == "failed":
            assert self.torchserve is not None
            why = "\n".join(problem.why for problem in instance.problems.values())
            raise ServeError(f"nothing can be served: {why}\n{self.torchserve.last_words()}")
        if not self.health.ready:
            return
        self.announced = True
        loaded, logs = instance.loaded[str(instance.default)], self.run_dir / "logs"
        if self.settings.log_json:
            self.steps("serving", version=instance.default, precision=loaded.precision, took_s=time.monotonic() - self.started)
            return
        print(
            f"ready after {time.monotonic() - self.started:.1f} s: {MODEL} {instance.default} in {loaded.precision}, "
            f"golden photos answered.\nAsk it with\n\n"
            f"    curl {local_address(self.host, self.port)}/predictions/{MODEL} -T photo.jpg\n\n"
            f"Ctrl-C ends it. Logs: {logs.relative_to(ROOT) if logs.is_relative_to(ROOT) else logs}",
            flush=True,
        )

    def _sleep(self, seconds: float) -> None:
        """Wait so long, or until TorchServe has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not (self.instance.torchserve and self.instance.torchserve.ended):
            self.health.beat()
            time.sleep(min(TICK_S, seconds))

    def stop(self, why: str) -> None:
        """Drain and stop TorchServe; a second signal stops it at once."""
        self.health.drain()
        now = True
        try:
            self.steps("draining", because=why, grace_s=self.settings.grace_s)
            time.sleep(self.settings.grace_s)
            idle = self.instance.drain()
            self.steps("drained", idle=idle)
            now = False
        except Stopped:
            self.steps("stopping at once")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            if self.torchserve is not None:
                self.torchserve.stop(now)


def serve(store: Store, host: str, port: int, name: str, run_dir: Path, settings: Settings) -> None:
    """Serve the store's release until a signal comes. ServeError if it cannot begin."""
    check_ports(host, port)
    ports, steps = ports_of(port), Steps(settings.log_json)
    run_dir.mkdir(parents=True, exist_ok=True)
    health = Health(settings, steps)
    instance = Instance(name, store, run_dir, health, settings, steps)
    serving = Serving(instance, run_dir, host, port)
    pid_file = run_dir / "serve.pid"
    pid_file.write_text(str(os.getpid()))
    metrics = MetricsServer(run_dir / "metrics", ports["metrics"], ports["TorchServe metrics"])
    try:
        with metrics, HealthServer(host, ports["health"], health), Reporter(instance, metrics), health:
            try:
                steps("starting TorchServe", instance=name, release=store.address)
                serving.run()
            except Stopped as stopped:
                serving.stop(str(stopped))
                raise
            except BaseException:
                if serving.torchserve is not None:
                    serving.torchserve.stop(now=True)
                raise
    finally:
        pid_file.unlink(missing_ok=True)


def own_name(port: int) -> str:
    """This instance's name among others: the ECS task's id where it is one, else host-port."""
    metadata = os.environ.get("ECS_CONTAINER_METADATA_URI_V4")
    if metadata:
        try:
            return str(httpx.get(f"{metadata}/task", timeout=5).raise_for_status().json()["TaskARN"]).rpartition("/")[2]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            print(f"note: ECS does not tell which task this is: {error}", file=sys.stderr, flush=True)
    return f"{socket.gethostname()}-{port}"


def own_release(archive: Path, folder: Path) -> Store:
    """A document that serves this archive alone, in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    store = FolderStore(folder / "release.json")
    store.folder.mkdir(parents=True)
    store.put(archive)
    store.write(write(_served({archive_version(archive): entry_of(archive)}, archive)), None)
    return store


def newest_release(model_store: Path, store: FolderStore) -> None:
    """See that there is a document: as long as nobody has rolled anything out, it names the newest archive. ValueError if none."""
    try:
        found = store.read()
        assert found is not None
        document, tag = parse(found[0]), found[1]
    except FileNotFoundError:
        document, tag = None, None
    newest = choose_archive(model_store, None) if find_archives(model_store) or document is None else None
    if newest is None:
        return
    version = archive_version(newest)
    if document is None or document["by"] == SELF:
        versions = {version: entry_of(newest)}
        if document is None or document["versions"] != versions:
            store.write(write(_served(versions, newest)), tag)
    elif precedence(version) > max(map(precedence, document["versions"])):
        print(
            f"note: {newest.name} is newer than what is released ({document['default']}): make rollout VERSION={version}",
            flush=True,
        )


def _served(versions: Mapping[str, Mapping[str, str]], archive: Path) -> dict[str, Any]:
    return make(versions, archive_version(archive), "released", f"{archive.name} is served", SELF)


def stop(run_dir: Path, settings: Settings) -> None:
    """End the serve.py that writes to this folder, and wait until it is gone. ServeError if there is none."""
    pid_file = run_dir / "serve.pid"
    try:
        process = psutil.Process(int(pid_file.read_text()))
        if "scripts.serving.serve" not in process.cmdline():
            raise psutil.NoSuchProcess(process.pid)
    except (FileNotFoundError, psutil.NoSuchProcess) as error:
        pid_file.unlink(missing_ok=True)
        raise ServeError(f"nothing is served from {run_dir}") from error
    process.terminate()
    limit_s = settings.grace_s + settings.drain_s + settings.stop_timeout_s + 10
    deadline = time.monotonic() + limit_s
    with contextlib.suppress(psutil.NoSuchProcess):  # that is what we wait for; a zombie has ended, too
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise ServeError(f"process {process.pid} did not end within {limit_s:g} s")
            time.sleep(0.1)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="inference port; the others follow it: scripts/settings.py")
    parser.add_argument(
        "--host", default="127.0.0.1", help="inference and health address, e.g. 0.0.0.0; the others stay on loopback"
    )
    parser.add_argument(
        "--release",
        default=os.environ.get("RELEASE"),
        help="the release document: a path or s3://bucket/key; default: RELEASE, else MODEL_STORE/release.json",
    )
    parser.add_argument("--version", help="serve this version of MODEL_STORE alone, whatever is released")
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--instance", help="this instance's name among others; default: the ECS task's id, else host-port")
    parser.add_argument("--run-dir", type=Path, help="where it writes; default: build/serve-PORT")
    parser.add_argument("--stop", action="store_true", help="end the one that serves on --port")
    args = parser.parse_args()
    run_dir = (args.run_dir or ROOT / "build" / f"serve-{args.port}").resolve()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_stopped)
    try:
        settings = Settings.from_environment()
        if args.stop:
            stop(run_dir, settings)
            print(f"port {args.port} is served no more")
            return 0
        name = re.sub(r"[^A-Za-z0-9._-]", "-", args.instance or own_name(args.port))
        if args.version and args.release:
            parser.error("--version and --release exclude each other: make rollout changes what a release document says")
        if args.version:
            check_ports(args.host, args.port)  # before the files of one that serves there are touched
            store: Store = own_release(choose_archive(args.model_store, args.version), run_dir / "own")
        else:
            store = open_store(args.release or str(args.model_store / "release.json"))
            if not args.release:
                assert isinstance(store, FolderStore)
                newest_release(args.model_store, store)
        serve(store, args.host, args.port, name, run_dir, settings)
    except Stopped as stopped:
        print(f"stopped by {stopped}: no process left", flush=True)
    except (ServeError, PortError, ReleaseError, StoreError, ValueError) as error:
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
