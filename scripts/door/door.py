"""The door's process: `python -m scripts.door.door`, started and watched by serve.

Reads a line of JSON a second on standard input (state.py). At its end, or at SIGTERM, no more connections are taken, what is in
flight is answered, and the process ends.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from scripts.backend.answer import Backend
from scripts.backend.torchserve.inference import Inference
from scripts.command import parser, run
from scripts.door.access.guard import Access
from scripts.door.access.rates import RateLimits
from scripts.door.addresses import networks
from scripts.door.admission import Admission, Limits
from scripts.door.api.management import Management, ManagementLimits
from scripts.door.app import Door, warn
from scripts.door.feedback import Feedback
from scripts.door.http.limits import Limits as HttpLimits
from scripts.door.http.server import HttpServer, Listener
from scripts.door.in_flight import BytesInFlight
from scripts.door.log import AccessLog
from scripts.door.metrics import Metrics
from scripts.door.predictions import Predictions
from scripts.door.state import State
from scripts.door.tracing.start import spans_of
from scripts.settings import Settings

# a line holds the description of each version, with all its labels
LINE_BYTES = 64 * 1024 * 1024


async def follow(state: State, server: HttpServer) -> None:
    """Take serve's lines; stop the server when serve has gone, which may be within a line."""
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            state.take(json.loads(line))
    finally:
        server.stop()


def http_limits(settings: Settings) -> HttpLimits:
    """The settings of connections, as the HTTP layer has them."""
    return HttpLimits(
        head_s=settings.request_head_s,
        body_s=settings.request_body_s,
        body_rate=settings.request_rate,
        write_rate=settings.answer_rate,
        idle_s=settings.idle_connection_s,
        connections=settings.connections,
        connections_per_address=settings.connections_per_address,
        proxies=networks(_listed(settings.trusted_proxies)),
        stop_s=settings.drain_s,
    )


def predictions_of(backend: Backend, state: State, metrics: Metrics, settings: Settings) -> Predictions:
    """What takes photos to the backend, within the settings' bounds."""
    bounds = Limits(settings.worker_requests, settings.worker_cpu_s, settings.worker_bytes, settings.queue_cpu_s)

    def models() -> int:
        return len(state.models)

    admission = Admission(bounds, models)
    few = replace(bounds, running=settings.heat_maps, each_worker=False)
    heat_maps = Admission(few, models) if settings.heat_maps else None
    bodies = BytesInFlight(settings.upload_bytes, models)
    metrics.watch(admission)
    metrics.watch_models(lambda: list(state.models))
    metrics.watch_bytes(bodies)
    return Predictions(backend, state, admission, heat_maps, bodies, metrics, settings.answer_timeout_s)


def access_of(settings: Settings) -> Access:
    """Who may use the door."""
    rates = RateLimits(settings.rate_per_address, settings.rate_per_key, trusted_proxies=_listed(settings.trusted_proxies))
    return Access(Path(settings.api_keys) if settings.api_keys else None, _listed(settings.origins), rates)


def feedback_of(settings: Settings, socket: Path | None) -> Feedback:
    """What takes feedback; without captured photos there is nothing that it could belong to."""
    captures = settings.capture_share > 0 and settings.capture_dir
    return Feedback(Path(settings.capture_dir) if captures else None, settings.capture_age_s, socket)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


async def serve(args: argparse.Namespace, settings: Settings) -> None:
    """Answer until serve has gone, or SIGTERM. OSError if a port is taken, ValueError for a setting that cannot be."""
    backend, state, metrics = Inference(args.backend), State(), Metrics()
    predictions = predictions_of(backend, state, metrics, settings)
    log = AccessLog(settings.access_log, metrics.lost_lines.inc)
    spans = spans_of(os.environ, warn, metrics.spans, metrics.sent_spans)
    door = Door(predictions, state, metrics, log, access_of(settings), feedback_of(settings, args.feedback), spans)
    token = os.environ.get("SEEFOOD_MANAGEMENT_TOKEN", "")
    management = Management(args.management, args.port + 1, metrics.text, ManagementLimits(token))
    server = HttpServer(
        [
            Listener(door.application(), args.host, args.port, http_limits(settings), args.cert, args.key),
            Listener(management, "127.0.0.1", args.port + 1, http_limits(settings)),
        ]
    )
    metrics.watch_connections(server.connections[0])
    # Ctrl-C reaches the whole process group: serve decides when the door ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    gc.freeze()  # what starts with the process stays: no collection walks through it again
    following = asyncio.create_task(follow(state, server))
    try:
        await server.serve()
    finally:
        following.cancel()
        backend.close()
        await management.close()
        log.close()
        if spans:
            spans.close()


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=8080)
    arguments.add_argument("--backend", required=True, help="TorchServe's inference address: http://host:port, or unix:PATH")
    arguments.add_argument("--management", required=True, help="TorchServe's management address, in the same forms")
    arguments.add_argument("--cert", type=Path, help="a PEM file: HTTPS instead of HTTP")
    arguments.add_argument("--key", type=Path, help="its key")
    arguments.add_argument("--feedback", type=Path, help="serve's socket for feedback, where photos are kept on S3")
    args = arguments.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(args, Settings.from_environment()))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
