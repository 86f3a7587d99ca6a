"""Rules about alarms: each watches a metric that exists, can go off, and notifies somebody."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    LOAD_BALANCER,
    TARGET_GROUP,
    Finding,
    environment,
    is_true,
    number,
    number_or,
    services,
    shown,
)
from scripts.ecs.preflight.rules.container import serving
from scripts.serving.cloudwatch import METRICS as METRICS_LOGGED

ALARM, TOPIC, LOG_GROUP = "AWS::CloudWatch::Alarm", "AWS::SNS::Topic", "AWS::Logs::LogGroup"
NAMESPACE = "SEEFOOD_CLOUDWATCH_NAMESPACE"
SCALING_POLICY = "AWS::ApplicationAutoScaling::ScalingPolicy"
# of scripts/serving/cloudwatch.py: photos that got no answer by our fault, and those that were too much at a time
FAILED, SHED, SECONDS = "Failed", "Shed", "Seconds"
# AWS's metrics that concern this service, and the dimensions without which they have no values
METRICS = {
    "AWS/ECS": {"CPUUtilization", "MemoryUtilization"},
    "ECS/ContainerInsights": {"RunningTaskCount", "PendingTaskCount", "DesiredTaskCount"},
    "AWS/ApplicationELB": {
        "HTTPCode_Target_5XX_Count",
        "HTTPCode_Target_4XX_Count",
        "HTTPCode_ELB_5XX_Count",
        "HTTPCode_ELB_500_Count",
        "HTTPCode_ELB_502_Count",
        "HTTPCode_ELB_503_Count",
        "HTTPCode_ELB_504_Count",
        "RequestCount",
        "TargetResponseTime",
        "HealthyHostCount",
        "UnHealthyHostCount",
        "TargetConnectionErrorCount",
    },
}
DIMENSIONS = {
    "AWS/ECS": {"ClusterName", "ServiceName"},
    "ECS/ContainerInsights": {"ClusterName", "ServiceName"},
    "AWS/ApplicationELB": {"LoadBalancer"},
}


def logged_namespaces(stacks: Stacks) -> list[str]:
    """The namespaces of the metrics that tasks log."""
    found = [environment(container) for _, container in serving(stacks)]
    return [one[NAMESPACE] for one in found if one.get(NAMESPACE) and is_true(one.get("SEEFOOD_LOG_JSON"))]


def measured(alarm: Resource) -> list[Mapping[str, Any]]:
    """The metrics that an alarm watches: its own, or those of its metric math."""
    found = [one["MetricStat"] for one in alarm.list("Metrics") if isinstance(one.get("MetricStat"), Mapping)]
    return [{**(one.get("Metric") or {}), "Period": one.get("Period")} for one in found] or [alarm.properties]


def alarms_watch_these_resources(stacks: Stacks) -> Iterator[Finding]:
    """An alarm on a metric or resource that does not exist never goes off: use a metric and dimensions of this service."""
    known = {"ClusterName": [one.identifiers["name"] for one in stacks.of("ECS::Cluster")]}
    known["ServiceName"] = [one.identifiers["name"] for one in services(stacks)]
    # AWS makes up full names, so these are symbols: see resolve/naming.py
    known["LoadBalancer"] = [f"«{one}.LoadBalancerFullName»" for one in stacks.of(LOAD_BALANCER)]
    known["TargetGroup"] = [f"«{one}.TargetGroupFullName»" for one in stacks.of(TARGET_GROUP)]
    ours = [(namespace, name) for namespace in logged_namespaces(stacks) for name in METRICS_LOGGED]
    for alarm in stacks.of(ALARM):
        for metric in measured(alarm):
            namespace, name = str(metric.get("Namespace")), metric.get("MetricName")
            if name not in METRICS.get(namespace, ()) and (namespace, name) not in ours:
                found = f"Namespace is {shown(metric.get('Namespace'))}, MetricName {shown(name)}"
                yield Finding(f"{alarm}", found, "a metric of scripts/serving/cloudwatch.py, ECS or ELB")
            given = {one.get("Name"): one.get("Value") for one in metric.get("Dimensions") or []}
            needed = set(DIMENSIONS.get(namespace, ()))
            # host counts exist per target group only
            needed |= {"TargetGroup"} if str(name).endswith("HealthyHostCount") else set()
            # the load balancer's own answers are not counted by target group
            if str(name).startswith("HTTPCode_ELB_") and "TargetGroup" in given:
                yield Finding(f"{alarm}", f"{name} has the dimension TargetGroup", "LoadBalancer alone")
            for dimension in sorted({*needed, *given}, key=str):
                if dimension not in known:
                    yield Finding(f"{alarm}", f"it has the dimension {dimension}", f"only {', '.join(sorted(known))}")
                elif given.get(dimension) not in known[dimension]:
                    expected = " or ".join(known[dimension]) or "a resource of these stacks"
                    yield Finding(f"{alarm}", f"{dimension} is {shown(given.get(dimension))}", expected)


def alarms_can_go_off(stacks: Stacks) -> Iterator[Finding]:
    """CloudWatch refuses an alarm without a threshold, or with a period it does not store: set a valid period and threshold."""
    for alarm in stacks.of(ALARM):
        for metric in measured(alarm):
            period = number_or(metric.get("Period"), 0)
            # shorter periods than a minute exist for high-resolution metrics only
            if period not in (10, 20, 30) and (period < 60 or period % 60):
                yield Finding(f"{alarm}", f"Period is {shown(metric.get('Period'))}", "10, 20, 30, or a multiple of 60 seconds")
        periods, points = number(alarm.get("EvaluationPeriods")), number(alarm.get("DatapointsToAlarm"))
        if periods is None or not 1 <= (points if points is not None else periods) <= periods:
            found = f"EvaluationPeriods is {shown(periods)}, DatapointsToAlarm {shown(points)}"
            yield Finding(f"{alarm}", found, "1 or more periods, and no more points than periods")
        if number(alarm.get("Threshold")) is None:
            yield Finding(f"{alarm}", f"Threshold is {shown(alarm.get('Threshold'))}", "a number")
        # ReturnData is true where it is left out
        returned = [one for one in alarm.list("Metrics") if str(one.get("ReturnData", True)).lower() == "true"]
        if alarm.list("Metrics") and len(returned) != 1:
            yield Finding(f"{alarm}", f"{len(returned)} of its Metrics return data", "exactly one, which the threshold applies to")
        ids = {str(one.get("Id")) for one in alarm.list("Metrics")}
        for one in alarm.list("Metrics"):
            # ids begin with a lowercase letter, functions of metric math with an uppercase one
            used = set(re.findall(r"\b[a-z]\w*", str(one.get("Expression") or "")))
            if not used <= ids or not (one.get("Expression") or one.get("MetricStat")):
                yield Finding(
                    f"{alarm}", f"Expression is {shown(one.get('Expression'))}", f"an expression over {', '.join(sorted(ids))}"
                )
        if alarm.get("MetricName") and not (alarm.get("Statistic") or alarm.get("ExtendedStatistic")):
            yield Finding(f"{alarm}", "Statistic is not set", "Sum, Average, Minimum or Maximum")
        if not str(alarm.get("ComparisonOperator")).startswith(("GreaterThan", "LessThan")):
            yield Finding(
                f"{alarm}", f"ComparisonOperator is {shown(alarm.get('ComparisonOperator'))}", "GreaterThanThreshold or similar"
            )


# what a revision does that fails, crashes, hangs, is slow, or is never ready
SIGNS = (
    FAILED,
    "HTTPCode_ELB_502_Count",
    "HTTPCode_ELB_504_Count",
    SECONDS,
    "HealthyHostCount",
)
# there is no task yet: in the first deployment, and in one that ends an outage
NO_TASK = "HTTPCode_ELB_503_Count"
CLIENTS = re.compile(r"4XX|ClientTLS|Rejected|DesyncMitigation")
# a task's own 5xx are also those by which it sheds load
LOAD = re.compile(rf"Target_5XX|^{SHED}$")


def deployment_alarms_see_crashes(stacks: Stacks) -> Iterator[Finding]:
    """A task that crashes or hangs answers nothing: watch what fails in tasks, ELB's 502 and 504, latency and ready tasks."""
    for service in stacks.of("ECS::Service"):
        names = service.list("DeploymentConfiguration", "Alarms", "AlarmNames")
        alarms = [one for one in stacks.of(ALARM) if one.identifiers["name"] in names]
        watched = {str(metric.get("MetricName")): alarm for alarm in alarms for metric in measured(alarm)}
        used = {
            str(metric.get("MetricName")): _is_used(alarm, metric.get("MetricName"))
            for alarm in alarms
            for metric in measured(alarm)
        }
        for sign in SIGNS:
            if sign not in watched or not used[sign]:
                yield Finding(f"{service}", f"no alarm that undoes a deployment watches {sign}", "one that does")
        for name, alarm in watched.items():
            # whoever sends bad requests during a deployment would undo it
            if CLIENTS.search(name):
                yield Finding(f"{alarm}", f"it watches {name}, which clients cause", "only what tasks cause")
            if LOAD.search(name):
                yield Finding(f"{alarm}", f"it watches {name}, which a high load raises", f"{FAILED}, which has our faults alone")
            if name in (NO_TASK, "HTTPCode_ELB_5XX_Count"):
                yield Finding(f"{alarm}", f"it watches {name}, which comes while there is no task yet", "502 and 504 alone")
            if name == "TargetResponseTime":
                yield Finding(f"{alarm}", f"it watches {name}, which has clients' uploads in it", SECONDS)
        for alarm in alarms:
            for metric in alarm.list("Metrics"):
                stat = str((metric.get("MetricStat") or {}).get("Stat"))
                of_time = (metric.get("MetricStat") or {}).get("Metric", {}).get("MetricName") == SECONDS
                # an average hides that one request of ten hangs
                if of_time and not re.fullmatch(r"p9\d(\.\d+)?", stat):
                    yield Finding(f"{alarm}", f"Stat of {SECONDS} is {stat}", "p90 to p99.9")


def _is_used(alarm: Resource, name: object) -> bool:
    """Whether an alarm's threshold depends on a metric: it is the alarm's own, or in an expression of it."""
    ids = [
        str(one.get("Id"))
        for one in alarm.list("Metrics")
        if (one.get("MetricStat") or {}).get("Metric", {}).get("MetricName") == name
    ]
    expressions = " ".join(str(one.get("Expression") or "") for one in alarm.list("Metrics"))
    return not alarm.list("Metrics") or any(re.search(rf"\b{re.escape(one)}\b", expressions) for one in ids)


def full_queues_add_a_task(stacks: Stacks) -> Iterator[Finding]:
    """A full queue means too few tasks, whatever the revision: let an alarm on what was shed start a scaling policy."""
    alarms = [one for one in stacks.of(ALARM) if SHED in [metric.get("MetricName") for metric in measured(one)]]
    if not any(_is_used(one, SHED) for one in alarms):
        yield Finding("all stacks", f"no alarm watches {SHED}", "one that starts a scaling policy")
    for alarm in alarms:
        if not any(stacks.find(one, SCALING_POLICY, "arn") for one in alarm.list("AlarmActions")):
            yield Finding(
                f"{alarm}", f"AlarmActions is {shown(alarm.get('AlarmActions'))}", "a scaling policy, and the alarm topic"
            )


def alarms_notify_someone(stacks: Stacks) -> Iterator[Finding]:
    """An alarm that notifies nobody goes unnoticed: point AlarmActions and subscriptions at the alarm topic."""
    for alarm in stacks.of(ALARM):
        actions = [one for one in alarm.list("AlarmActions") if stacks.find(one, SCALING_POLICY, "arn") is None]
        if not actions or not all(stacks.find(one, TOPIC, "arn") for one in actions):
            yield Finding(f"{alarm}", f"AlarmActions is {shown(alarm.get('AlarmActions'))}", "the topic of the observability stack")
        if str(alarm.get("ActionsEnabled")).lower() == "false":
            yield Finding(f"{alarm}", f"ActionsEnabled is {alarm.get('ActionsEnabled')}", "true")
    for subscription in stacks.of("SNS::Subscription"):
        if stacks.find(subscription.get("TopicArn"), TOPIC, "arn") is None or not subscription.get("Endpoint"):
            found = f"TopicArn is {shown(subscription.get('TopicArn'))}, Endpoint {shown(subscription.get('Endpoint'))}"
            yield Finding(f"{subscription}", found, "the alarm topic, and an address to notify")


def dashboards_show_what_is_measured(stacks: Stacks) -> Iterator[Finding]:
    """A widget on a metric that nobody writes stays empty: show those that tasks log, ECS's and the load balancer's."""
    ours = [(namespace, name) for namespace in logged_namespaces(stacks) for name in METRICS_LOGGED]
    for dashboard in stacks.of("CloudWatch::Dashboard"):
        for widget in json.loads(str(dashboard.get("DashboardBody")))["widgets"]:
            for namespace, name in _shown_metrics(widget):
                if name not in METRICS.get(namespace, ()) and (namespace, name) not in ours:
                    title = widget["properties"].get("title")
                    expected = "a metric of scripts/serving/cloudwatch.py, ECS or ELB"
                    yield Finding(f"{dashboard}", f"{title!r} shows {namespace} {name}", expected)


def _shown_metrics(widget: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for first, *rest in widget["properties"].get("metrics", ()):
        if isinstance(first, str):
            yield first, str(rest[0])
        elif found := re.search(r"\{([\w/]+)[,}].*MetricName=\"(\w+)\"", str(first.get("expression"))):
            yield found[1], found[2]


RULES = (
    alarms_watch_these_resources,
    alarms_can_go_off,
    deployment_alarms_see_crashes,
    full_queues_add_a_task,
    alarms_notify_someone,
    dashboards_show_what_is_measured,
)
