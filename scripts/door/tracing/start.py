"""Whether traces are sent, as OpenTelemetry's own variables ask for it. Imports its packages only if so."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prometheus_client import Counter

if TYPE_CHECKING:
    from scripts.door.tracing.spans import Spans

# the second is for traces alone, goes first, and has the whole path
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"


def spans_of(environment: Mapping[str, str], warn: Callable[[str], object], made: Counter, sent: Counter) -> "Spans | None":
    """What makes spans of requests, or None. ValueError for variables that ask for what is not here.

    `warn` takes a sentence; `made` and `sent` count spans.
    """
    endpoint = next(((name, environment[name]) for name in ENDPOINTS if environment.get(name)), None)
    if endpoint is None or _is_off(environment):
        return None
    _check(environment, *endpoint)
    try:
        from scripts.door.tracing.exporter import provider_to
        from scripts.door.tracing.spans import Spans
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{endpoint[0]} is set, and {error.name} is not installed: python3 scripts/install.py serve tracing, or unset it"
        ) from error
    return Spans(provider_to(_shown(endpoint[1]), warn, sent), made)


def _is_off(environment: Mapping[str, str]) -> bool:
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if exporters not in ("otlp", "none"):
        raise ValueError(f"OTEL_TRACES_EXPORTER is {exporters!r}, expected otlp or none")
    return exporters == "none" or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _check(environment: Mapping[str, str], name: str, endpoint: str) -> None:
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{name} is {_shown(endpoint)!r}, expected an address as http://collector:4318")
    for variable in PROTOCOLS:
        if environment.get(variable, PROTOCOL) not in ("", PROTOCOL):
            raise ValueError(
                f"{variable} is {environment[variable]!r}, expected {PROTOCOL}: collectors take it on port 4318, gRPC on 4317"
            )


def _shown(endpoint: str) -> str:
    """An address for people to read: without a password in it."""
    return endpoint.rpartition("@")[2]
