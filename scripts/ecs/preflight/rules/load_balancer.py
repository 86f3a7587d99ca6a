"""Rules about the load balancer: callers reach it by HTTPS, it reaches tasks, and its health checks ask for readiness."""

import re
from collections.abc import Iterator

from scripts.ecs.preflight.resolve.security_groups import (
    covers,
    egress,
    groups_with,
    has_source,
    ingress,
    instance_groups,
    reaches,
    task_groups,
)
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    INTERNAL_PORTS,
    LISTENER,
    LOAD_BALANCER,
    TARGET_GROUP,
    TRAFFIC_PORT,
    Finding,
    forwarded_to,
    load_balancers_of,
    network_mode,
    number,
    number_or,
    services,
    serving_container,
    settings_of,
    shown,
    target_groups_of,
    task_of,
)

# the range that HostPort 0 is taken from: both its ends, and where older agents begin
EPHEMERAL_PORTS = (32768, 49153, 60999)


def health_check_asks_readiness(stacks: Stacks) -> Iterator[Finding]:
    """TorchServe's /ping succeeds without any model: let the target group check /readyz by HTTP, and expect 200."""
    for group in stacks.of(TARGET_GROUP):
        path = str(group.get("HealthCheckPath") or "/")
        if path != "/readyz":
            yield Finding(f"{group}", f"HealthCheckPath is {path}", "/readyz, which succeeds once the model answers correctly")
        if str(group.get("HealthCheckProtocol") or group.get("Protocol") or "HTTP") != "HTTP":
            yield Finding(f"{group}", f"HealthCheckProtocol is {group.get('HealthCheckProtocol')}", "HTTP, which the task serves")
        if str(group.get("HealthCheckEnabled")).lower() == "false":
            yield Finding(f"{group}", "HealthCheckEnabled is false", "true")
        codes = str(group.get("Matcher", "HttpCode") or "200")
        # HttpCode may be 200, 200-299 or a list
        ranges = [(int(first), int(last or first)) for first, last in re.findall(r"(\d+)(?:-(\d+))?", codes)]
        if not any(first <= 200 <= last for first, last in ranges) or any(last >= 300 for _, last in ranges):
            yield Finding(f"{group}", f"Matcher.HttpCode is {codes}", "200 only, as a task that is not ready answers 503")
        if group.get("Matcher", "GrpcCode"):
            yield Finding(f"{group}", "Matcher has a GrpcCode", "HttpCode 200")


def health_check_has_right_port(stacks: Stacks) -> Iterator[Finding]:
    """Readiness is where photos go, on a port that ECS may have chosen: leave HealthCheckPort out, or say traffic-port."""
    for service in services(stacks):
        task = task_of(stacks, service)
        for group in target_groups_of(stacks, service) if task else []:
            assert task is not None
            port = str(group.get("HealthCheckPort") or "traffic-port")
            allowed = ["traffic-port", *([str(TRAFFIC_PORT)] if network_mode(task) == "awsvpc" else [])]
            if port not in allowed:
                found = f"HealthCheckPort is {port}"
                yield Finding(f"{group}", found, f"{' or '.join(allowed)}, as {task} uses {network_mode(task)}")


def health_check_times_are_possible(stacks: Stacks) -> Iterator[Finding]:
    """ELB refuses a timeout as long as the interval, and times out of range: stay within the limits."""
    for group in stacks.of(TARGET_GROUP):
        interval = number_or(group.get("HealthCheckIntervalSeconds"), 30)
        timeout = number_or(group.get("HealthCheckTimeoutSeconds"), 5)
        if timeout >= interval:
            yield Finding(f"{group}", f"HealthCheckTimeoutSeconds is {timeout:g}", f"less than the interval, {interval:g}")
        limits = {"HealthCheckIntervalSeconds": (interval, 5, 300), "HealthCheckTimeoutSeconds": (timeout, 2, 120)}
        limits["HealthyThresholdCount"] = (number_or(group.get("HealthyThresholdCount"), 5), 2, 10)
        limits["UnhealthyThresholdCount"] = (number_or(group.get("UnhealthyThresholdCount"), 2), 2, 10)
        for key, (value, least, most) in limits.items():
            if not least <= value <= most:
                yield Finding(f"{group}", f"{key} is {value:g}", f"{least} to {most}")


def load_balancer_stops_sending_in_time(stacks: Stacks) -> Iterator[Finding]:
    """A stopping task gets photos until it is found unhealthy: keep interval times threshold within SEEFOOD_GRACE_S."""
    for service in services(stacks):
        task = task_of(stacks, service)
        container = serving_container(stacks, task) if task else None
        for group in target_groups_of(stacks, service) if container else []:
            interval = number_or(group.get("HealthCheckIntervalSeconds"), 30)
            # defaults as of ELB, for a target group that leaves them out
            window_s = interval * number_or(group.get("UnhealthyThresholdCount"), 2)
            try:
                grace_s = settings_of(container or {}).grace_s
            except ValueError:
                continue  # settings_are_taken reports it
            if window_s > grace_s:
                found = f"it takes {window_s:g} s to find a task unhealthy"
                yield Finding(f"{group}", found, f"at most SEEFOOD_GRACE_S, {grace_s:g} s")


def deregistration_fits_stop(stacks: Stacks) -> Iterator[Finding]:
    """ECS kills a task StopTimeout after SIGTERM, even if the load balancer still waits: keep the deregistration delay shorter."""
    for service in services(stacks):
        task = task_of(stacks, service)
        container = serving_container(stacks, task) if task else None
        # 30 s is the ECS agent's default
        limit_s = number_or(container.get("StopTimeout"), 30) if container else 30
        for group in target_groups_of(stacks, service):
            delay_s = number_or(_attribute(group, "deregistration_delay.timeout_seconds"), 300)
            if not 1 <= delay_s <= limit_s:
                yield Finding(f"{group}", f"the deregistration delay is {delay_s:g} s", f"1 s to StopTimeout, {limit_s:g} s")


def _attribute(group: Resource, key: str) -> object:
    found = [one.get("Value") for one in group.list("TargetGroupAttributes") if one.get("Key") == key]
    # of two attributes with one key the last one counts
    return found[-1] if found else None


def target_group_speaks_http(stacks: Stacks) -> Iterator[Finding]:
    """The container serves plain HTTP/1.1 on port 8080: set the target group's protocol, version and port to match."""
    for group in stacks.of(TARGET_GROUP):
        for key, default in (("Protocol", "HTTP"), ("ProtocolVersion", "HTTP1")):
            # ProtocolVersion has a default, Protocol has none
            value = group.get(key) or (None if key == "Protocol" else default)
            if value != default:
                yield Finding(f"{group}", f"{key} is {shown(value)}", default)
        if number(group.get("Port")) is None:
            yield Finding(f"{group}", f"Port is {shown(group.get('Port'))}", f"{TRAFFIC_PORT}")


def https_has_certificate(stacks: Stacks) -> Iterator[Finding]:
    """ELB refuses an HTTPS listener without a certificate in this region: set CertificateArn to one that ACM has issued."""
    for balancer in stacks.of(LOAD_BALANCER):
        if not [one for one in _listeners(stacks, balancer) if one.get("Protocol") == "HTTPS"]:
            yield Finding(f"{balancer}", "it has no HTTPS listener", "one on port 443")
    for listener in stacks.of(LISTENER):
        if stacks.find(listener.get("LoadBalancerArn"), LOAD_BALANCER, "arn") is None:
            found = f"LoadBalancerArn is {shown(listener.get('LoadBalancerArn'))}"
            yield Finding(f"{listener}", found, "a load balancer of these stacks")
        if listener.get("Protocol") not in ("HTTP", "HTTPS"):
            yield Finding(f"{listener}", f"Protocol is {shown(listener.get('Protocol'))}", "HTTPS, or HTTP that redirects")
        if listener.get("Protocol") != "HTTPS":
            continue
        arn = listener.get("Certificates", 0, "CertificateArn")
        region = stacks.deployment.region
        ours = stacks.find(arn, "AWS::CertificateManager::Certificate")
        # without SslPolicy ELB takes a policy of 2016, with TLS 1.0
        if not re.match(r"ELBSecurityPolicy-(TLS13-1-[23]|TLS-1-2|FS-1-2)", str(listener.get("SslPolicy"))):
            found = f"SslPolicy is {shown(listener.get('SslPolicy'))}"
            yield Finding(f"{listener}", found, "ELBSecurityPolicy-TLS13-1-2-2021-06, as TLS before 1.2 is broken")
        if not ours and not re.fullmatch(rf"arn:aws[a-z-]*:acm:{region}:\d{{12}}:certificate/[\w-]+", str(arn)):
            yield Finding(f"{listener}", f"CertificateArn is {shown(arn)}", f"the ARN of an ACM certificate in {region}")


def _listeners(stacks: Stacks, balancer: Resource) -> list[Resource]:
    return [one for one in stacks.of(LISTENER) if stacks.find(one.get("LoadBalancerArn"), LOAD_BALANCER, "arn") == balancer]


def http_is_redirected(stacks: Stacks) -> Iterator[Finding]:
    """Photos must not travel unencrypted: redirect the HTTP listener to the HTTPS port, and forward nothing."""
    for balancer in stacks.of(LOAD_BALANCER):
        listeners = _listeners(stacks, balancer)
        secure = [str(one.get("Port")) for one in listeners if one.get("Protocol") == "HTTPS"]
        plain = [one for one in listeners if one.get("Protocol") == "HTTP"]
        if not plain:
            yield Finding(f"{balancer}", "it has no HTTP listener", "one on port 80 that redirects")
        for listener in plain:
            where = listener.get("DefaultActions", 0, "RedirectConfig") or {}
            # these placeholders are ELB's defaults: port and protocol stay as they are
            to_port, protocol = str(where.get("Port", "#{port}")), str(where.get("Protocol", "#{protocol}"))
            kind = listener.get("DefaultActions", 0, "Type")
            if kind != "redirect" or forwarded_to(listener.list("DefaultActions")):
                yield Finding(f"{listener}", f"its action is {shown(kind)}", "redirect")
            elif to_port not in secure or protocol != "HTTPS":
                yield Finding(
                    f"{listener}", f"it redirects to {protocol} port {to_port}", f"HTTPS port {', '.join(secure) or '443'}"
                )
            elif where.get("StatusCode") not in ("HTTP_301", "HTTP_302"):
                yield Finding(f"{listener}", f"StatusCode is {shown(where.get('StatusCode'))}", "HTTP_301")
            for rule in stacks.of("ElasticLoadBalancingV2::ListenerRule"):
                if rule.get("ListenerArn") == listener.identifiers["arn"] and forwarded_to(rule.list("Actions")):
                    yield Finding(f"{rule}", f"it forwards requests of {listener}", "a rule of the HTTPS listener")


def callers_reach_load_balancer(stacks: Stacks) -> Iterator[Finding]:
    """Nobody reaches a listener whose port the load balancer's security group blocks: open the listeners' ports."""
    for balancer in stacks.of(LOAD_BALANCER):
        groups = groups_with(stacks, balancer.list("SecurityGroups"))
        if not groups:
            yield Finding(
                f"{balancer}",
                f"SecurityGroups is {shown(balancer.get('SecurityGroups'))}",
                "its security group from the network stack",
            )
        for listener in _listeners(stacks, balancer) if groups else []:
            port = int(number_or(listener.get("Port"), 0))
            rules = [rule for group in groups for rule in ingress(stacks, group)]
            if not any(covers(rule, port) and has_source(rule) for rule in rules):
                names = ", ".join(map(str, groups))
                yield Finding(names, f"it blocks inbound port {port}", f"TCP {port}, the port of {listener}")


def load_balancer_reaches_tasks(stacks: Stacks) -> Iterator[Finding]:
    """Targets stay unhealthy if traffic is blocked: allow its port into the tasks' group, and out of the load balancer's."""
    for service in services(stacks):
        task = task_of(stacks, service)
        dynamic = task is not None and network_mode(task) != "awsvpc"
        ports = EPHEMERAL_PORTS if dynamic else (TRAFFIC_PORT,)
        tasks = task_groups(stacks, service)
        if not tasks:
            yield Finding(f"{service}", "its tasks are in no security group of these stacks", "the tasks' security group")
        for balancer in load_balancers_of(stacks, service):
            balancer_groups = groups_with(stacks, balancer.list("SecurityGroups"))
            for port in ports if tasks and balancer_groups else ():
                inbound = [(rule, one) for group in tasks for rule in ingress(stacks, group) for one in balancer_groups]
                if not any(covers(rule, port) and reaches(stacks, rule, one, "Source") for rule, one in inbound):
                    names = ", ".join(map(str, tasks))
                    yield Finding(names, f"it blocks the load balancer on port {port}", f"TCP {port} from {balancer_groups[0]}")
                outbound = [(egress(stacks, group), one) for group in balancer_groups for one in tasks]
                if not any(
                    # None: no outbound rules, which allows everything
                    rules is None or any(covers(rule, port) and reaches(stacks, rule, one, "Destination") for rule in rules)
                    for rules, one in outbound
                ):
                    yield Finding(f"{balancer_groups[0]}", f"it blocks outbound port {port} to tasks", f"TCP {port} to {tasks[0]}")


def internal_ports_are_closed(stacks: Stacks) -> Iterator[Finding]:
    """Management and metrics ports must not be reachable from outside: keep them out of groups, listeners and target groups."""
    for group in stacks.of("EC2::SecurityGroup"):
        for rule in ingress(stacks, group):
            # also a range that merely includes one
            inside = [port for port in INTERNAL_PORTS if covers(rule, port)]
            if inside:
                yield Finding(f"{group}", f"it opens port {', '.join(map(str, inside))}", f"only {TRAFFIC_PORT}")
    for resource in stacks.of(TARGET_GROUP, LISTENER):
        for key in ("Port", "HealthCheckPort"):
            if number(resource.get(key)) in INTERNAL_PORTS:
                yield Finding(f"{resource}", f"{key} is {resource.get(key)}", "a port that is not internal")


def tasks_are_closed_to_others(stacks: Stacks) -> Iterator[Finding]:
    """Traffic that bypasses the load balancer is neither encrypted nor counted: let in only the load balancer's group."""
    for service in services(stacks):
        allowed = [one for balancer in load_balancers_of(stacks, service) for one in balancer.list("SecurityGroups")]
        for group in {str(one): one for one in [*task_groups(stacks, service), *instance_groups(stacks, service)]}.values():
            for rule in ingress(stacks, group):
                source = rule.get("SourceSecurityGroupId")
                ports = (number(rule.get("FromPort")), number(rule.get("ToPort")))
                task = task_of(stacks, service)
                if task and network_mode(task) == "awsvpc" and ports != (TRAFFIC_PORT, TRAFFIC_PORT):
                    found = f"it opens ports {shown(rule.get('FromPort'))} to {shown(rule.get('ToPort'))}"
                    yield Finding(f"{group}", found, f"only {TRAFFIC_PORT}, in a rule of its own")
                if source not in allowed:
                    address = source or rule.get("CidrIp") or rule.get("CidrIpv6") or rule.get("SourcePrefixListId")
                    yield Finding(f"{group}", f"it lets in {shown(address)}", "only the load balancer's group")


RULES = (
    health_check_asks_readiness,
    health_check_has_right_port,
    health_check_times_are_possible,
    load_balancer_stops_sending_in_time,
    deregistration_fits_stop,
    target_group_speaks_http,
    https_has_certificate,
    http_is_redirected,
    callers_reach_load_balancer,
    load_balancer_reaches_tasks,
    internal_ports_are_closed,
    tasks_are_closed_to_others,
)
