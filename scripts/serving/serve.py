"""Serve a release: `python -m scripts.serving.serve`, in the foreground until Ctrl-C or SIGTERM; `--stop` stops one elsewhere.

Runs TorchServe with config.properties and keeps it reconciled with the release document (scripts/release/document.py), which
is polled every few seconds: MODEL_STORE/release.json, or --release. Where nobody has rolled anything out yet, it is written
for the newest archive. With --version, a document of its own names that version alone. TorchServe is restarted when it dies.
The door (scripts/door) stands before it and answers on --port, /livez and /readyz too. A status beside the release document
shows how far this instance is. Everything else is written to build/serve-PORT/.

On SIGTERM, Ctrl-C or a closed terminal: not ready at once, but serving for SEEFOOD_GRACE_S; then the door takes no more
connections and answers what it has, and TorchServe is stopped. A second SIGTERM or Ctrl-C stops both at once. Even after
SIGKILL no process is left (scripts/backend/torchserve/guard.py).
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from scripts.archive.name import choose_archive
from scripts.backend.torchserve.process import ServeError, make_private
from scripts.backend.torchserve.sockets import choose_addresses, remove_short_folder
from scripts.command import parser, run
from scripts.paths import ROOT
from scripts.release.address import open_store
from scripts.release.folder_store import FolderStore
from scripts.release.store import Store
from scripts.serving.capture_uploads import CaptureUploads
from scripts.serving.captured import with_captured
from scripts.serving.certificate import with_certificate
from scripts.serving.cloudwatch import CloudWatch
from scripts.serving.desired import DesiredState
from scripts.serving.door import Door
from scripts.serving.drift import start_anew
from scripts.serving.health import Health
from scripts.serving.instance import Instance
from scripts.serving.instance_metrics import InstanceMetrics
from scripts.serving.metrics import MetricsServer
from scripts.serving.open_files import allow_open_files
from scripts.serving.own_document import newest_release, own_release
from scripts.serving.plain_text import ErrorSteps
from scripts.serving.ports import check_ports
from scripts.serving.reporter import Reporter
from scripts.serving.supervisor import Supervisor
from scripts.settings import Settings, ports_of
from scripts.steps import Steps

MODULE = "scripts.serving.serve"
ECS_TIMEOUT_S = 5


def serve(
    store: Store, host: str, port: int, name: str, run_dir: Path, settings: Settings, steps: Steps, model: str | None
) -> None:
    """Serve the store's release until a signal comes, which is a KeyboardInterrupt. ServeError if it cannot start."""
    check_ports(host, port, settings.metrics_host)
    allow_open_files(settings.open_files)
    make_private(run_dir)
    uploads = CaptureUploads.of(settings, run_dir, steps)
    start_anew(run_dir)
    settings = with_captured(with_certificate(settings, host, run_dir / "tls"), run_dir)
    addresses = choose_addresses(run_dir)
    if not addresses.private:
        why = f"its code for Unix sockets is not for this machine, or {run_dir} may hold no programs (noexec)"
        steps("TorchServe is on loopback", why=why, addresses=" ".join(addresses))
    ports = ports_of(port)
    door_metrics = f"http://127.0.0.1:{ports['management']}"
    metrics = MetricsServer(run_dir / "metrics", ports["metrics"], addresses.metrics, settings, steps, door_metrics)
    health = Health(settings, steps, metrics.progress, lambda: door.answers)
    instance = Instance(DesiredState(name, store, run_dir, settings, steps, model), run_dir, health, settings, steps)
    door = Door(host, port, addresses, settings, steps, lambda: _told(instance, health, uploads), uploads.socket)
    supervisor = Supervisor(instance, run_dir, addresses, door)
    metrics.of_instance.register(InstanceMetrics(instance, supervisor, door))
    metrics.of_instance.register(uploads)
    pid_file = run_dir / "serve.pid"
    pid_file.write_text(str(os.getpid()))
    try:
        # left in reverse: the checks end first, and the last status still needs the metrics
        cloudwatch = CloudWatch(metrics.families, settings.cloudwatch_namespace, steps)
        with uploads, metrics, Reporter(instance, metrics), health, door, cloudwatch:
            try:
                steps("starting TorchServe", instance=name, release=store.address)
                supervisor.run()
            except KeyboardInterrupt as interrupt:
                supervisor.stop(_signal_name(interrupt))
                raise
            except BaseException:
                if supervisor.torchserve is not None:
                    supervisor.torchserve.stop(now=True)
                raise
    finally:
        pid_file.unlink(missing_ok=True)
        remove_short_folder(run_dir / "sockets")


def _told(instance: Instance, health: Health, uploads: CaptureUploads) -> dict[str, Any]:
    """What the door is told (scripts/door/state.py)."""
    ready, status = health.readiness()
    told = {"live": health.live, "ready": ready, "why": status.get("why", ""), "models": instance.served()}
    not_ready = {name: why for name in health.models if (why := health.of(name).get("why"))}
    return told | {"not_ready": not_ready, "captured_s": uploads.kept_s}


def _signal_name(interrupt: KeyboardInterrupt) -> str:
    return str(interrupt) or "SIGINT"


def own_name(port: int, steps: Steps) -> str:
    """This instance's name among others: on ECS the task's id, else host-port."""
    metadata = os.environ.get("ECS_CONTAINER_METADATA_URI_V4")
    if metadata:
        try:
            task = httpx.get(f"{metadata}/task", timeout=ECS_TIMEOUT_S).raise_for_status().json()
            return str(task["TaskARN"]).rpartition("/")[2]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            steps("the ECS task's id is not known", why=error)
    return f"{socket.gethostname()}-{port}"


def default_run_dir(port: int) -> Path:
    """Where the server on this port writes: in the checkout, or where that is read-only in the user's folder for such things."""
    build = ROOT / "build"
    if os.access(build if build.is_dir() else ROOT, os.W_OK):
        return build / f"serve-{port}"
    # XDG Base Directory Specification: logs and state
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "seefood" / f"serve-{port}"


def stop(port: int, run_dir: Path, settings: Settings) -> None:
    """Stop the server on this port, and wait until its process has ended. ServeError if none is running."""
    pid_file = run_dir / "serve.pid"
    try:
        process = psutil.Process(int(pid_file.read_text()))
        if MODULE not in process.cmdline():  # after SIGKILL the file stays, and another process may have got the id
            raise psutil.NoSuchProcess(process.pid)
    except (FileNotFoundError, psutil.NoSuchProcess) as error:
        pid_file.unlink(missing_ok=True)
        raise ServeError(f"no server is running on port {port}") from error
    process.terminate()
    # the longest orderly end that the settings allow, and a margin
    limit_s = settings.grace_s + settings.drain_s + settings.stop_timeout_s + 10
    deadline = time.monotonic() + limit_s
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended; so has a zombie
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise ServeError(f"process {process.pid} did not end within {limit_s:g} s")
            time.sleep(0.1)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--port", type=int, default=8080, help="inference port; the others follow it: scripts/settings.py")
    arguments.add_argument("--host", default="127.0.0.1", help="the address of --port, e.g. 0.0.0.0; the others stay on loopback")
    arguments.add_argument(
        "--release", help="the release document: a path or s3://bucket/key; default: SEEFOOD_RELEASE, else MODEL_STORE/release.json"
    )
    arguments.add_argument("--model", help="the model to serve; needed if MODEL_STORE holds several and none is released yet")
    arguments.add_argument("--version", help="serve this version of MODEL_STORE alone, whatever is released")
    arguments.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    arguments.add_argument("--format", default="", help="serve this format or program alone, e.g. openvino-int8, openvino/f32")
    arguments.add_argument("--instance", help="this instance's name among others; default: the ECS task's id, else host-port")
    arguments.add_argument(
        "--run-dir",
        type=Path,
        help="where it writes; default: build/serve-PORT, or ~/.local/state/seefood/serve-PORT if that is read-only",
    )
    arguments.add_argument("--tls", action="store_true", help="HTTPS; without --cert by a certificate that is made for it")
    arguments.add_argument("--cert", default="", help="a PEM file with the certificate and its chain: HTTPS; default: SEEFOOD_CERT")
    arguments.add_argument("--key", default="", help="a PEM file with its key; default: SEEFOOD_KEY, else in the same file")
    arguments.add_argument("--stop", action="store_true", help="stop the server on --port")
    args = arguments.parse_args()
    if args.version and args.release:
        arguments.error("--version and --release exclude each other: make rollout changes which version a document names")
    return args


def _store(args: argparse.Namespace, run_dir: Path, settings: Settings, steps: Steps) -> Store:
    """Where the release document is, or is written to now."""
    if args.version:
        if settings.release:
            raise ValueError(f"--version serves no release, but SEEFOOD_RELEASE is {settings.release}: leave one out")
        check_ports(args.host, args.port)  # before the files of one that serves there are touched
        make_private(run_dir)
        return own_release(choose_archive(args.model_store, args.version, args.model), run_dir / "own")
    if address := args.release or settings.release:
        return open_store(address, settings)
    check_ports(args.host, args.port)  # before the document is written, which a server that runs there may follow
    store = FolderStore(args.model_store / "release.json", settings)
    if not os.access(args.model_store, os.W_OK):
        if store.path.exists():
            return store  # somebody else writes it
        newest = choose_archive(args.model_store, None, args.model)
        message = f"note: {args.model_store} is read-only, so {newest.name} is served whatever is rolled out"
        steps.say(message, "read-only", model_store=args.model_store, archive=newest.name)
        make_private(run_dir)
        return own_release(newest, run_dir / "own")
    newest_release(args.model_store, store, args.model, steps)
    return store


def main() -> int:
    """Command line; see the module's docstring."""
    args = _arguments()
    # a script that starts it with & has SIGINT ignored for it; a server has to end by it all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_dir = (args.run_dir or default_run_dir(args.port)).resolve()
    settings = Settings.from_environment()
    settings = replace(settings, tls=settings.tls or args.tls, cert=args.cert or settings.cert, key=args.key or settings.key)
    settings = replace(settings, format=args.format or settings.format)
    steps = Steps(settings.log_json)
    if settings.log_json:
        sys.stderr = ErrorSteps(steps)
    if args.stop:
        stop(args.port, run_dir, settings)
        steps.say(f"the server on port {args.port} has stopped", "stopped", port=args.port)
        return 0
    try:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", args.instance or own_name(args.port, steps))
        store = _store(args, run_dir, settings, steps)
        serve(store, args.host, args.port, name, run_dir, settings, steps, args.model)
    except KeyboardInterrupt as interrupt:  # the orderly end of a server, so no error
        signal_name = _signal_name(interrupt)
        steps.say(f"stopped by {signal_name}: no process left", "stopped", why=signal_name)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
