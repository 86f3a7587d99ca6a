"""What the alarms that undo a deployment would do: their metric math, computed over minutes as CloudWatch would have them."""

import re

import pytest

from tests.ecs.test_templates import resource, stacks

ELB = "HTTPCode_ELB_{}_Count".format


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


MINUTES = {
    "good": ({"RequestCount": 1000, "TargetResponseTime": 0.2}, []),
    "no traffic at all": ({}, []),
    "answers with errors": ({"RequestCount": 1000, "HTTPCode_Target_5XX_Count": 100}, ["ErrorAlarm"]),
    "crashes under requests": ({"RequestCount": 1000, ELB(502): 100}, ["ErrorAlarm"]),
    "hangs": ({"RequestCount": 1000, ELB(504): 100}, ["ErrorAlarm"]),
    "has no task": ({ELB(503): 100}, ["ErrorAlarm"]),
    "each a little": ({"RequestCount": 1000, "HTTPCode_Target_5XX_Count": 20, ELB(502): 20, ELB(504): 20}, ["ErrorAlarm"]),
    "one error": ({"RequestCount": 10, ELB(502): 1}, []),
    "is slow": ({"RequestCount": 1000, "TargetResponseTime": 20.0}, ["SlowAlarm"]),
    "one slow request": ({"RequestCount": 10, "TargetResponseTime": 20.0}, []),
    "clients that leave, send nonsense, or too much": (
        {"RequestCount": 1000, ELB("4XX"): 900, ELB(460): 500, ELB(463): 100, ELB(400): 300, "HTTPCode_Target_4XX_Count": 900},
        [],
    ),
    "clients that speak no TLS": ({"RequestCount": 1000, "ClientTLSNegotiationErrorCount": 900}, []),
}


@pytest.mark.parametrize("name", MINUTES)
def test_alarms_see_what_a_revision_does_and_not_what_clients_do(name):
    minute, expected = MINUTES[name]
    alarms = [resource(stacks(), one) for one in ("ErrorAlarm", "SlowAlarm")]
    assert [alarm.name for alarm in alarms if value(alarm, minute) > float(alarm.get("Threshold"))] == expected
