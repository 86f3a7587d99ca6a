"""Serve a release: `python -m scripts.serving.serve`, in the foreground until Ctrl-C or SIGTERM; `--stop` stops one elsewhere.

Runs TorchServe with config.properties and keeps it reconciled with the release document (scripts/release/document.py), which
is polled every few seconds: MODEL_STORE/release.json, or --release. Where nobody has rolled anything out yet, it is written
for the newest archive. With --version, a document of its own names that version alone. TorchServe is restarted when it dies.
The door (scripts/door) stands before it and answers on --port, /livez and /readyz too. A status beside the release document
shows how far this instance is. Everything else is written to build/serve-PORT/.

On SIGTERM, Ctrl-C or a closed terminal: not ready at once, but serving for SEEFOOD_GRACE_S; then the door takes no more
connections and answers what it has, and TorchServe is stopped. A second SIGTERM or Ctrl-C stops both at once. Even after
SIGKILL no process is left (scripts/backend/torchserve/guard.py).

TorchServe takes longest to start, so this file imports what starting it needs, and all else (server.py) while it starts.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from handler.locks import locked
from scripts.atomic import aside
from scripts.backend.torchserve.process import PID_FILE, ServeError, TorchServe, make_private, remove_passing
from scripts.backend.torchserve.sockets import choose_addresses, remove_short_folder
from scripts.command import parser, run
from scripts.paths import ROOT, own_folder
from scripts.serving.open_files import allow_open_files
from scripts.serving.ports import check_ports
from scripts.settings import Settings
from scripts.steps import Steps

MODULE = "scripts.serving.serve"
ECS_TIMEOUT_S = 5


def _signal_name(interrupt: KeyboardInterrupt) -> str:
    return str(interrupt) or "SIGINT"


def own_name(port: int, steps: Steps) -> str:
    """This instance's name among others: on ECS the task's id, else host-port."""
    metadata = os.environ.get("ECS_CONTAINER_METADATA_URI_V4")
    if metadata:
        import httpx

        try:
            task = httpx.get(f"{metadata}/task", timeout=ECS_TIMEOUT_S).raise_for_status().json()
            return str(task["TaskARN"]).rpartition("/")[2]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            steps("the ECS task's id is not known", why=error)
    return f"{socket.gethostname()}-{port}"


def default_run_dir(port: int) -> Path:
    """Where the server on this port writes: in the checkout, or where that is read-only in the user's folder for such things."""
    return own_folder() / f"serve-{port}"


def stop(port: int, run_dir: Path, settings: Settings) -> None:
    """Stop the server on this port, and wait until its process has ended. ServeError if none is running."""
    import psutil

    pid_file = run_dir / PID_FILE
    try:
        process = psutil.Process(int(pid_file.read_text()))
        if MODULE not in process.cmdline():  # after SIGKILL the file stays, and another process may have got the id
            raise psutil.NoSuchProcess(process.pid)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess) as error:
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


@contextlib.contextmanager
def _held(run_dir: Path) -> Iterator[None]:
    """Within this `with`, no other server starts in this folder: of two that start at once, both find the port free. ServeError."""
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            is_ours = locked(folder)
        except OSError:  # some file systems lock no folders
            is_ours = True
        if not is_ours:
            raise ServeError(
                f"another server runs in {run_dir}, or has begun to: stop it first, or choose another --port or --run-dir"
            )
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def _pid_file(run_dir: Path) -> Iterator[None]:
    """Within this `with`, --stop finds this process."""
    file, own = run_dir / PID_FILE, str(os.getpid())
    try:
        with aside(file, lasting=False) as part:  # whole at once: --stop may read it at this moment
            part.write_text(own)
        yield
    finally:
        if file.is_file() and file.read_text() == own:  # not that of another that starts here
            file.unlink(missing_ok=True)


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


def _serve(args: argparse.Namespace, run_dir: Path, settings: Settings, steps: Steps) -> None:
    """Serve until a signal comes, which is a KeyboardInterrupt."""
    # before anything is written: a server that runs there may follow the release document, or write to the same folder
    check_ports(args.host, args.port, settings.metrics_host)
    allow_open_files(settings.open_files)
    make_private(run_dir)
    with _held(run_dir), _pid_file(run_dir):
        torchserve = None
        try:
            torchserve = TorchServe(run_dir, choose_addresses(run_dir), settings)
            from scripts.serving.server import serve, store_of

            name = re.sub(r"[^A-Za-z0-9._-]", "-", args.instance or own_name(args.port, steps))
            store = store_of(args, run_dir, settings, steps)
            serve(store, torchserve, args.host, args.port, name, settings, steps, args.model)
        finally:
            if torchserve is None:  # this process was stopped before it had started one
                remove_passing(run_dir)
            else:
                torchserve.stop(now=True)  # what did not get so far as to be stopped in order
            remove_short_folder(run_dir / "sockets")


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
        from scripts.serving.plain_text import ErrorSteps

        sys.stderr = ErrorSteps(steps)
    if args.stop:
        stop(args.port, run_dir, settings)
        steps.say(f"the server on port {args.port} has stopped", "stopped", port=args.port)
        return 0
    try:
        _serve(args, run_dir, settings, steps)
    except KeyboardInterrupt as interrupt:  # the orderly end of a server, so no error
        signal_name = _signal_name(interrupt)
        steps.say(f"stopped by {signal_name}: no process left", "stopped", why=signal_name)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
