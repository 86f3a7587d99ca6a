"""Every port, time and limit of serving, rollouts and collecting that a person may want to change, with defaults for a laptop.

SEEFOOD_<NAME> in the environment sets one, e.g. SEEFOOD_GRACE_S=15; an unknown name is an error. How often a loop inside
the code polls is no setting: such a constant stands beside its loop.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

# in this order; metrics are ours, the others the door's. TorchServe is behind it (scripts/backend/torchserve/sockets.py)
PORT_NAMES = ("inference", "management", "metrics")


def ports_of(port: int) -> dict[str, int]:
    """Each port by name, following the inference port."""
    return {name: port + i for i, name in enumerate(PORT_NAMES)}


@dataclass(frozen=True)
class Settings:
    """Times in seconds, sizes in bytes."""

    # --- serving: HTTPS ---
    tls: bool = False  # with a certificate that the server makes itself, for want of another
    cert: str = ""  # a file with the certificate and what follows it in its chain; empty: HTTP
    key: str = ""  # a file with its private key; empty: in the same file

    # --- serving and rollout: where the release document is ---
    release: str = ""  # a path or s3://bucket/key; empty: release.json in the model store

    # --- serving: which of an archive's programs ---
    format: str = ""  # a format (openvino-int8) or one program (openvino/f32); empty: the fastest on this machine

    # --- serving: starting and restarting TorchServe ---
    start_timeout_s: float = 60.0  # until its management API answers
    restart_wait_s: float = 1.0  # before it is restarted after it died; doubles each time ...
    restart_wait_max_s: float = 5.0  # ... up to this; not longer, for it serves again this long after the cause has gone
    stop_timeout_s: float = 20.0  # after SIGTERM to TorchServe, before SIGKILL
    management_timeout_s: float = 30.0  # of one call of its management API

    # --- serving: reconciling with the release document ---
    poll_s: float = 2.0  # between two reads of the document
    load_timeout_s: float = 150.0  # of a version, until its workers are ready; more than model-config.yaml's startupTimeout
    golden_timeout_s: float = 60.0  # of one golden photo of a version that proves itself, behind the photos of clients
    drain_s: float = 60.0  # for a version or a server that leaves, until nothing of it is queued or running
    settle_s: float = 1.0  # with nothing queued or running for this long a version counts as drained
    keep_archives: int = 3  # in the cache, beyond those that the document names
    min_free_bytes: int = 300 * 1024 * 1024  # on the disk, or nothing is fetched

    # --- serving: health, metrics and status ---
    check_s: float = 5.0  # between two golden photos that readiness rests on
    check_timeout_s: float = 120.0  # of such a photo, which waits in the queue as clients' photos do
    look_s: float = 1.0  # between two looks at the door, at the front end and at the workers' counters
    look_timeout_s: float = 2.0  # for each of them to answer; the second time that one does not, in a row, is not ready
    stall_s: float = 10.0  # requests wait and none is answered for longer: not ready; a batch of heavy photos takes seconds
    repair_s: float = 20.0  # ... the worker is restarted, and after as long again TorchServe; so is a door that answers nothing
    open_files: int = 1024  # the least that the system must allow the server; each connection takes one
    alive_s: float = 300.0  # no heartbeat for longer: not live; fetching a large archive over a slow line takes minutes
    heartbeat_s: float = 10.0  # a status is written at least this often
    grace_s: float = 0.0  # after SIGTERM: not ready, but still serving, until load balancers have taken the instance out
    metrics_host: str = "127.0.0.1"  # where /metrics listens; 0.0.0.0 lets a Prometheus elsewhere scrape it, and anybody read it
    http_timeout_s: float = 10.0  # for a client of the metrics port to send its request
    metrics_timeout_s: float = 5.0  # for TorchServe to answer with its own metrics
    keep_metrics_of: int = 20  # versions without a worker whose counters are kept, or rollouts would add up

    # --- serving: captured photos, for feedback and `make rollout SHADOW=N`; off unless the share is set ---
    capture_share: float = 0.0  # of answered photos, 0 to 1; for feedback on each of them 1
    capture_dir: str = ""  # a folder, or s3://bucket/prefix; empty: `captured` in the server's folder
    capture_bytes: int = 64 * 1024 * 1024  # those with feedback are removed last; under 20 MB no photo of the largest size is kept
    capture_age_s: float = 24 * 3600.0
    shadow_timeout_s: float = 30.0  # of one captured photo, sent to both versions

    # --- the door: connections ---
    request_head_s: float = 10.0  # from a request's first byte to the end of its head; a phone on a bad line needs 2
    request_body_s: float = 300.0  # for a whole body; 28 MB at 100 kB/s take 280
    request_rate: float = 1000.0  # bytes a second of a body, after its first 10 s; GPRS does more
    answer_rate: float = 1000.0  # bytes a second at which a client reads an answer, after the first 10 s
    idle_connection_s: float = 75.0  # longer than the 60 of an AWS load balancer, which then is the one that closes
    connections: int = 10_000  # in all; each idle one takes about 10 kB
    connections_per_address: int = 512  # a NAT's clients share one address, and a proxy's that is not trusted below

    # --- the door: photos ---
    upload_bytes: int = 128 * 1024 * 1024  # of bodies that are held at a time; more is a 503
    worker_requests: int = 16  # at a worker at a time: a batch that runs, and the next
    worker_cpu_s: float = 1.5  # ... of CPU, estimated: model-config.yaml's budget of a batch
    worker_bytes: int = 64 * 1024 * 1024  # ... of photos, which TorchServe copies
    queue_cpu_s: float = 10.0  # that may wait; more is a 503, which is better than a time-out later
    heat_maps: int = 1  # at a time; 0 switches them off
    # of a whole photo, its turn included; less than a load balancer's 60. A worker that hangs is restarted after half of that
    answer_timeout_s: float = 55.0
    access_log: bool = False  # a line of JSON for each request

    # --- the door: who may use it; all of it is off ---
    api_keys: str = ""  # a file of hashes, a line for each key: `make key NAME=...`
    origins: str = ""  # web pages that may call it, e.g. https://a.example.org, https://b.example.org
    rate_per_address: float = 0.0  # requests a second; 0: no limit. Behind a proxy that is not trusted all share one address
    rate_per_key: float = 0.0  # ... of a key whose line has no rate of its own
    trusted_proxies: str = ""  # addresses and networks whose X-Forwarded-For is believed, and whose connections are many clients'

    # --- rollout ---
    stale_s: float = 30.0  # an instance whose status is older is stale
    rollout_s: float = 300.0  # until all instances are reconciled
    bake_s: float = 20.0  # the new version is watched for so long, and compared with the old one
    min_requests: int = 100  # of each version; with fewer nothing is compared
    worse_error_rate: float = 0.01  # more errors than the old version by this share of requests: restored
    worse_p99: float = 1.5  # the worker's p99 over that of the old version: restored ...
    worse_p99_s: float = 0.02  # ... if it is also slower by this much
    min_photos: int = 40  # captured ones that both versions answer; fewer judge no version
    bake_photos: int = 200  # captured ones, the last of each instance, that both versions are asked in a watched rollout ...
    bake_photos_s: float = 30.0  # ... within this time: two cores with other work answer 100 photos twice in 20 s
    worse_answers: float = 0.1  # class shares, unsure share, mean probability or agreement differ by so much: restored ...
    answers_chance: float = 0.001  # ... if chance makes such a difference in so few bakes of equal versions
    forget_status_s: float = 24 * 3600.0  # an instance's status that is older is removed
    s3_connect_timeout_s: float = 5.0  # of one attempt; botocore makes two
    s3_read_timeout_s: float = 10.0

    # --- collecting: photos of the web ---
    collect_interval_s: float = 1.0  # between two requests to a host
    collect_timeout_s: float = 60.0  # of one request, the body included
    collect_private: bool = False  # private addresses and other ports than 80 and 443, too: for an intranet, and for tests

    # --- logs ---
    log_json: bool = False  # a JSON object a line, for CloudWatch; else text
    cloudwatch_namespace: str = ""  # of the metrics that a line of such a log holds each minute; empty: none

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Defaults, and what SEEFOOD_... sets. ValueError for an unknown name or a bad value."""
        types = {field.name: type(field.default) for field in fields(cls)}
        given: dict[str, bool | int | float | str] = {}
        for variable, text in environment.items():
            if not variable.startswith("SEEFOOD_") or variable in NOT_SETTINGS:
                continue
            name = variable.removeprefix("SEEFOOD_").lower()
            if name not in types:
                raise ValueError(f"{variable} is set, expected one of {sorted('SEEFOOD_' + known.upper() for known in types)}")
            given[name] = _value(variable, text, types[name])
        settings = cls(**given)  # type: ignore[arg-type]
        if settings.capture_share > 1:
            raise ValueError(f"SEEFOOD_CAPTURE_SHARE is {settings.capture_share:g}, expected a share from 0 to 1")
        if not settings.bake_photos:
            raise ValueError("SEEFOOD_BAKE_PHOTOS is 0, expected at least 1")
        if settings.cloudwatch_namespace and not settings.log_json:
            given_name = settings.cloudwatch_namespace
            raise ValueError(f"SEEFOOD_CLOUDWATCH_NAMESPACE is {given_name!r}, expected SEEFOOD_LOG_JSON=true with it")
        for name in ("poll_s", "settle_s", "check_s", "look_s", "look_timeout_s", "stall_s", "repair_s", "golden_timeout_s"):
            if getattr(settings, name) < SHORTEST_S:
                raise ValueError(f"SEEFOOD_{name.upper()} is {getattr(settings, name):g}, expected at least {SHORTEST_S:g}")
        return settings

    def captured(self, run_dir: Path) -> Path:
        """Where the server that writes to `run_dir` keeps photos."""
        here = not self.capture_dir or self.capture_dir.startswith("s3://")  # those for S3 wait here
        return run_dir / "captured" if here else Path(self.capture_dir).absolute()


# less would be a busy loop
SHORTEST_S = 0.05
# set by make for docker-compose.yml, and by whoever asks a server that wants a key or tokens
NOT_SETTINGS = (
    "SEEFOOD_API_KEY",
    "SEEFOOD_TAG",
    "SEEFOOD_MANAGEMENT_TOKEN",
    "SEEFOOD_INFERENCE_TOKEN",
    "SEEFOOD_CHECKOUT",
    "SEEFOOD_COLLECT",
)


def _value(variable: str, text: str, kind: type) -> bool | int | float | str:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{variable} is {text!r}, expected true or false")
        return text.lower() == "true"
    try:
        value = int(text) if kind is int else float(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}, expected a number") from None
    if not 0 <= value < 1e15:
        raise ValueError(f"{variable} is {text!r}, expected a number from 0")
    return value
