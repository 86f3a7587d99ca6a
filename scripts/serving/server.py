"""All parts of one server, from the release document to the door, and how they start and end. The command is serve.py."""

import argparse
import os
from pathlib import Path
from typing import Any

from scripts.archive.name import choose_archive
from scripts.backend.torchserve.process import TorchServe
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
from scripts.serving.own_document import newest_release, own_release
from scripts.serving.reporter import Reporter
from scripts.serving.supervisor import Supervisor
from scripts.settings import Settings, ports_of
from scripts.steps import Steps


def serve(
    store: Store, torchserve: TorchServe, host: str, port: int, name: str, settings: Settings, steps: Steps, model: str | None
) -> None:
    """Serve the store's release until a signal comes, which is a KeyboardInterrupt. ServeError if it cannot start.

    `torchserve` is starting, in the folder that all of the server writes to.
    """
    run_dir, addresses = torchserve.run_dir, torchserve.addresses
    uploads = CaptureUploads.of(settings, run_dir, steps)
    start_anew(run_dir)
    settings = with_captured(with_certificate(settings, host, run_dir / "tls"), run_dir)
    if not addresses.private:
        why = f"its code for Unix sockets is not for this machine, or {run_dir} may hold no programs (noexec)"
        steps("TorchServe is on loopback", why=why, addresses=" ".join(addresses))
    ports = ports_of(port)
    door_metrics = f"http://127.0.0.1:{ports['management']}"
    metrics = MetricsServer(run_dir / "metrics", ports["metrics"], addresses.metrics, settings, steps, door_metrics)
    health = Health(settings, steps, metrics.progress, lambda: door.answers)
    instance = Instance(DesiredState(name, store, run_dir, settings, steps, model), run_dir, health, settings, steps)
    door = Door(host, port, addresses, settings, steps, lambda: _told(instance, health, uploads), uploads.socket)
    supervisor = Supervisor(instance, torchserve, door)
    metrics.of_instance.register(InstanceMetrics(instance, supervisor, door))
    metrics.of_instance.register(uploads)
    steps("starting TorchServe", instance=name, release=store.address)
    # left in reverse: the checks end first, and the last status still needs the metrics
    cloudwatch = CloudWatch(metrics.families, settings.cloudwatch_namespace, steps)
    with uploads, metrics, Reporter(instance, metrics), health:
        door.start()
        try:
            instance.prepare()  # while the door and TorchServe start
            with cloudwatch:
                try:
                    supervisor.run()
                except KeyboardInterrupt as interrupt:
                    supervisor.stop(str(interrupt) or "SIGINT")
                    raise
                except BaseException:
                    supervisor.torchserve.stop(now=True)
                    raise
        finally:
            door.stop()


def _told(instance: Instance, health: Health, uploads: CaptureUploads) -> dict[str, Any]:
    """What the door is told (scripts/door/state.py)."""
    ready, status = health.readiness()
    told = {"live": health.live, "ready": ready, "why": status.get("why", ""), "models": instance.served()}
    not_ready = {name: why for name in health.models if (why := health.of(name).get("why"))}
    return told | {"not_ready": not_ready, "captured_s": uploads.kept_s}


def store_of(args: argparse.Namespace, run_dir: Path, settings: Settings, steps: Steps) -> Store:
    """Where the release document is, or is written to now."""
    if args.version:
        if settings.release:
            raise ValueError(f"--version serves no release, but SEEFOOD_RELEASE is {settings.release}: leave one out")
        return own_release(choose_archive(args.model_store, args.version, args.model), run_dir / "own")
    if address := args.release or settings.release:
        return open_store(address, settings)
    store = FolderStore(args.model_store / "release.json", settings)
    if not os.access(args.model_store, os.W_OK):
        if store.path.exists():
            return store  # somebody else writes it
        newest = choose_archive(args.model_store, None, args.model)
        message = f"note: {args.model_store} is read-only, so {newest.name} is served whatever is rolled out"
        steps.say(message, "read-only", model_store=args.model_store, archive=newest.name)
        return own_release(newest, run_dir / "own")
    newest_release(args.model_store, store, args.model, steps)
    return store
