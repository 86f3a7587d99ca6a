"""What the alarms would do: their metric math over minutes as CloudWatch would have them, and the way of a figure to there.

Nothing that runs here computes metric math or fills metrics from logs (moto keeps alarms and filters, and looks at neither), so the
two functions below stand in for the small part of CloudWatch that the templates use.
"""

import json
import re
import time
from collections import Counter

import pytest

from scripts.door.metrics import Metrics
from scripts.door.times import Times
from scripts.serving.cloudwatch import CloudWatch
from scripts.steps import Steps
from tests.ecs.test_templates import resource, stacks

ELB = "HTTPCode_ELB_{}_Count".format
ALARMS = ("ErrorAlarm", "SlowAlarm", "ShedAlarm")


def value(alarm, minute):
    """An alarm's value for a minute's metrics; one without data is missing from them."""
    numbers = {}
    for one in alarm.list("Metrics"):
        if stat := one.get("MetricStat"):
            numbers[one["Id"]] = minute.get(stat["Metric"]["MetricName"])
    (expression,) = [one["Expression"] for one in alarm.list("Metrics") if one.get("ReturnData")]
    known = re.sub(r"FILL\((\w+), (\d+)\)", lambda found: str(numbers[found[1]] or float(found[2])), expression)
    condition, then, otherwise = re.fullmatch(r"IF\((.+), (.+), (\d+)\)", known).groups()
    # pure arithmetic by now; anything else is an error
    return float(eval(then if eval(condition, {}) else otherwise, {}))


def logged(lines):
    """The sums of the metrics that CloudWatch makes of these lines."""
    metrics = Counter()
    for line in map(json.loads, lines):
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
            metrics.update({one["Name"]: line[one["Name"]] for one in directive["Metrics"] if one["Name"] != "Seconds"})
    return metrics


def gone_off(minute):
    return [name for name in ALARMS if value(alarm := resource(stacks(), name), minute) > float(alarm.get("Threshold"))]


MINUTES = {
    "good": ({"Answered": 1000, "Seconds": 0.2}, []),
    "no traffic at all": ({}, []),
    "tasks that log nothing yet": ({"RequestCount": 1000}, []),
    "fails": ({"Answered": 900, "Failed": 100}, ["ErrorAlarm"]),
    "fails every photo that a client has got right": ({"Failed": 50, "RequestCount": 5000, ELB("4XX"): 50}, ["ErrorAlarm"]),
    "crashes under requests": ({"Answered": 900, ELB(502): 100}, ["ErrorAlarm"]),
    "hangs": ({"Answered": 900, ELB(504): 100}, ["ErrorAlarm"]),
    "has no task yet, or none any more": ({ELB(503): 100}, []),
    "clients upload slowly": ({"Answered": 1000, "Seconds": 0.2, "TargetResponseTime": 30.0}, []),
    "each a little": ({"Answered": 940, "Failed": 20, ELB(502): 20, ELB(504): 20}, ["ErrorAlarm"]),
    "one error": ({"Answered": 10, ELB(502): 1}, []),
    "is slow": ({"Answered": 1000, "Seconds": 20.0}, ["SlowAlarm"]),
    "one slow request": ({"Answered": 10, "Seconds": 20.0}, []),
    "full queues": ({"Answered": 900, "Shed": 900, "RequestCount": 1800, "HTTPCode_Target_5XX_Count": 900}, ["ShedAlarm"]),
    "full queues, and nothing but": ({"Shed": 900, "HTTPCode_Target_5XX_Count": 900}, ["ShedAlarm"]),
    "one photo too many": ({"Answered": 900, "Shed": 1, "HTTPCode_Target_5XX_Count": 1}, []),
    "clients that leave, send nonsense, or too much": (
        {"Answered": 100, ELB("4XX"): 900, ELB(460): 500, ELB(463): 100, ELB(400): 300, "HTTPCode_Target_4XX_Count": 900},
        [],
    ),
    "clients that speak no TLS": ({"Answered": 1000, "ClientTLSNegotiationErrorCount": 900}, []),
}


@pytest.mark.parametrize("name", MINUTES)
def test_alarms_see_what_a_revision_does_and_not_what_clients_do(name):
    minute, expected = MINUTES[name]
    assert gone_off(minute) == expected


def answered(metrics, status, kind="", method="POST", times=100):
    for _ in range(times):
        metrics.answered({"method": method, "state": {"error_kind": kind} if kind else {}}, status, 0, Times())


# what the door answers, and the alarm
ANSWERS = {
    "the model fails": ([(500, "ModelError")], ["ErrorAlarm"]),
    "the door fails": ([(500, "InternalError")], ["ErrorAlarm"]),
    "no worker is ready": ([(503, "UnavailableError")], ["ErrorAlarm"]),
    "no answer": ([(0, "")], ["ErrorAlarm"]),
    "the queue is full": ([(503, "BusyError"), (200, "")], ["ShedAlarm"]),
    "too many costly photos for the worker": ([(503, "PhotoError"), (200, "")], ["ShedAlarm"]),
    "too many heat maps": ([(503, "RequestError"), (200, "")], ["ShedAlarm"]),
    "clients' faults": (
        [(400, "RequestError"), (401, "KeyError"), (404, "NotFoundError"), (422, "PhotoError"), (429, "RateError"), (499, "")],
        [],
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_door_answers_reaches_the_right_alarm(name, capsys):
    answers, expected = ANSWERS[name]
    metrics = Metrics()
    cloudwatch = CloudWatch(metrics.registry.collect, "SeeFood/seefood", Steps(True))
    for status, kind in answers:
        answered(metrics, status, kind)
    answered(metrics, 503, "", "GET")  # health checks of a task that starts
    cloudwatch.take(time.time())
    cloudwatch.log()
    assert gone_off(logged(capsys.readouterr().out.splitlines())) == expected


def test_a_full_queue_adds_a_task_and_undoes_nothing():
    found = stacks()
    alarm, policy = resource(found, "ShedAlarm"), resource(found, "ScaleByShed")
    assert policy.identifiers["arn"] in alarm.list("AlarmActions")
    assert alarm.name not in resource(found, "Service").get("DeploymentConfiguration", "Alarms", "AlarmNames")
    (step,) = policy.get("StepScalingPolicyConfiguration", "StepAdjustments")
    assert float(step["ScalingAdjustment"]) == 1
