"""Rules about connections between the load balancer and the door: both read one request alike, and neither closes on the other."""

from collections.abc import Iterator

from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    LOAD_BALANCER,
    Finding,
    is_true,
    load_balancers_of,
    number_or,
    services,
    serving_container,
    settings_of,
    shown,
    task_of,
)
from scripts.settings import Settings

DESYNC, INVALID_HEADERS = "routing.http.desync_mitigation_mode", "routing.http.drop_invalid_header_fields.enabled"
IDLE, IDLE_S = "idle_timeout.timeout_seconds", 60  # ELB's default


def _attribute(balancer: Resource, key: str) -> object:
    found = [one.get("Value") for one in balancer.list("LoadBalancerAttributes") if one.get("Key") == key]
    # of two attributes with one key the last one counts
    return found[-1] if found else None


def _doors(stacks: Stacks) -> Iterator[tuple[Resource, Resource, Settings]]:
    """(load balancer, task, the settings that its door runs with) of each service."""
    for service in services(stacks):
        task = task_of(stacks, service)
        container = serving_container(stacks, task) if task else None
        for balancer in load_balancers_of(stacks, service) if container else []:
            assert task is not None
            try:
                yield balancer, task, settings_of(container or {})
            except ValueError:
                continue  # settings_are_taken reports it


def ambiguous_requests_are_refused(stacks: Stacks) -> Iterator[Finding]:
    """What two servers read differently smuggles requests past one of them: refuse it, and drop malformed headers."""
    for balancer in stacks.of(LOAD_BALANCER):
        mode, drops = _attribute(balancer, DESYNC), _attribute(balancer, INVALID_HEADERS)
        if mode != "strictest":
            yield Finding(f"{balancer}", f"{DESYNC} is {shown(mode)}", "strictest")
        if not is_true(drops):
            yield Finding(f"{balancer}", f"{INVALID_HEADERS} is {shown(drops)}", "true")


def tasks_outwait_the_load_balancer(stacks: Stacks) -> Iterator[Finding]:
    """A task that closes an idle connection first makes 502s of photos: keep ELB's idle time below SEEFOOD_IDLE_CONNECTION_S."""
    for balancer, _, settings in _doors(stacks):
        idle_s = number_or(_attribute(balancer, IDLE), IDLE_S)
        if not 1 <= idle_s < settings.idle_connection_s:
            expected = f"less than SEEFOOD_IDLE_CONNECTION_S, {settings.idle_connection_s:g}"
            yield Finding(f"{balancer}", f"{IDLE} is {idle_s:g}", expected)


def load_balancer_is_no_single_client(stacks: Stacks) -> Iterator[Finding]:
    """All clients come from the load balancer's few addresses: give one address all connections, and name it for rates."""
    for _, task, settings in _doors(stacks):
        if settings.connections_per_address < settings.connections:
            found = f"SEEFOOD_CONNECTIONS_PER_ADDRESS is {settings.connections_per_address}"
            yield Finding(f"{task}", found, f"SEEFOOD_CONNECTIONS, {settings.connections}, or more")
        if settings.rate_per_address and not settings.trusted_proxies:
            found = "SEEFOOD_RATE_PER_ADDRESS is set, and SEEFOOD_TRUSTED_PROXIES is not"
            yield Finding(f"{task}", found, "the networks of the load balancer's subnets")


def tasks_speak_plain_http(stacks: Stacks) -> Iterator[Finding]:
    """The load balancer ends HTTPS, and its target group and the health check speak HTTP: leave SEEFOOD_TLS and _CERT out."""
    for _, task, settings in _doors(stacks):
        if settings.tls or settings.cert:
            found = f"SEEFOOD_TLS is {str(settings.tls).lower()}, SEEFOOD_CERT {shown(settings.cert or None)}"
            yield Finding(f"{task}", found, "neither")


RULES = (
    ambiguous_requests_are_refused,
    tasks_outwait_the_load_balancer,
    load_balancer_is_no_single_client,
    tasks_speak_plain_http,
)
