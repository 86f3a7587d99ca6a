"""Each alert fires within two minutes of its cause, is quiet near its threshold, and clears: the shipped rules, under promtool.

In each case all is well for 180 s, wrong for 180 s, and well again.
"""

import json
import re

import pytest
import yaml

from tests.conftest import ROOT
from tests.monitoring.rules import PROMETHEUS, RULES, Case, check, counter, gauge, needs_promtool, promtool

GOOD_S, BAD_S, AFTER_S = 180, 180, 300
# two minutes after the cause began; right before it; three minutes after its end
FIRES, QUIET = [GOOD_S + 120, GOOD_S + BAD_S - 10], [GOOD_S - 10, GOOD_S + BAD_S + 180]
ALWAYS = list(range(0, GOOD_S + BAD_S + AFTER_S, 30))
OUTCOMES = "seefood_door_outcomes_total"
SECONDS = 'seefood_door_seconds_bucket{route="/predictions/{model}", '
MODEL = 'model="food", version="1.0.0"'
ANSWER_SECONDS = "seefood_door_answer_seconds_bucket{"


def level(good, bad):
    return gauge((good, GOOD_S), (bad, BAD_S), (good, AFTER_S))


def rate(good, bad):
    return counter((good, GOOD_S), (bad, BAD_S), (good, AFTER_S))


def outcomes(answered, failed, shed=(0, 0)):
    """Photos a second (while all is well, while it is not) by outcome; the cause of the bad ones has no series before them."""

    def late(kind, rates):
        values = rate(*rates)
        return {f'{OUTCOMES}{{outcome="{kind}", cause="{cause}"}}': values for cause, values in by_cause(values).items()}

    def by_cause(values):
        first = next((i for i, value in enumerate(values) if value), len(values))
        return {"": [0] * len(values), "SomeError": [None] * first + values[first:]}

    return {f'{OUTCOMES}{{outcome="answered", cause=""}}': rate(*answered), **late("failed", failed), **late("shed", shed)}


def latency(total, slow, slow_uploads=(0, 0)):
    """Photos a second, those of them above 2 s from their whole body on, and those with a slow upload."""
    fast = tuple(all_ - slow_ for all_, slow_ in zip(total, slow, strict=True))
    at_door = tuple(all_ - slow_ for all_, slow_ in zip(fast, slow_uploads, strict=True))
    return {
        f'{ANSWER_SECONDS}le="2.0"}}': rate(*fast),
        f'{ANSWER_SECONDS}le="5.0"}}': rate(*total),
        f'{ANSWER_SECONDS}le="+Inf"}}': rate(*total),
        f'{SECONDS}le="2.0"}}': rate(*at_door),
        f'{SECONDS}le="+Inf"}}': rate(*total),
    }


def unsure(predictions, share):
    """Predictions a second, and the share of unsure ones (while all is well, while it is not)."""
    return {
        'seefood_top1_probability_count{model="food", version="1.0.0"}': rate(*predictions),
        'seefood_unsure_total{model="food", version="1.0.0"}': rate(
            *(one * part for one, part in zip(predictions, share, strict=True))
        ),
    }


def drift(value):
    return {
        f'seefood_drift{{model="food", version="1.0.0", signal="brightness", window="{window}"}}': level(0.3, value)
        for window in (500, 5000)
    }


def state(name, value, draining=(0, 0)):
    return {name: level(*value), 'seefood_instance_state{state="draining"}': level(*draining)}


def disk(free):
    return {"seefood_instance_disk_free_bytes": level(*free), "seefood_instance_disk_min_free_bytes": level(300e6, 300e6)}


def restarts(values):
    return {'seefood_instance_restarts_total{part="worker"}': values}


BLIP = gauge((1, GOOD_S), (0, 20), (1, AFTER_S))
CASES = {
    "down": Case("SeefoodDown", {"up": level(1, 0)}, FIRES, QUIET),
    "one scrape missed, and the next": Case("SeefoodDown", {"up": BLIP}, quiet=ALWAYS),
    "no targets": Case("SeefoodNoTargets", {"up": gauge((1, GOOD_S), (None, 480), (1, AFTER_S))}, [650], [170, 900]),
    "a target that is down is one": Case("SeefoodNoTargets", {"up": level(1, 0)}, quiet=ALWAYS[1:]),
    "not ready": Case("SeefoodNotReady", state("seefood_instance_ready", (1, 0)), FIRES, QUIET),
    "repaired within a minute": Case(
        "SeefoodNotReady", {**state("x", (0, 0)), "seefood_instance_ready": gauge((1, 180), (0, 50), (1, 430))}, quiet=ALWAYS
    ),
    "told to end": Case("SeefoodNotReady", state("seefood_instance_ready", (1, 0), draining=(0, 1)), quiet=ALWAYS),
    "a tenth fails": Case("SeefoodFailures", outcomes((10, 9), (0, 1)), FIRES, QUIET),
    "all fails": Case("SeefoodFailures", outcomes((10, 0), (0, 10)), FIRES, QUIET),
    "few photos, which fail": Case("SeefoodFailures", outcomes((0.1, 0), (0, 0.1)), [330], QUIET),
    "a burst that fails between two scrapes, of a cause that was never seen": Case(
        "SeefoodFailures",
        {
            f'{OUTCOMES}{{outcome="answered", cause=""}}': rate(1, 1),
            f'{OUTCOMES}{{outcome="failed", cause=""}}': level(0, 0),
            f'{OUTCOMES}{{outcome="failed", cause="SomeError"}}': gauge((None, GOOD_S), (100, BAD_S + AFTER_S)),
        },
        [GOOD_S + 60, GOOD_S + 100],
        [GOOD_S - 10, GOOD_S + 180],
    ),
    "4 % fail": Case("SeefoodFailures", outcomes((10, 9.6), (0, 0.4)), quiet=ALWAYS),
    "one of two fails": Case("SeefoodFailures", outcomes((0.01, 0.005), (0, 0.005)), quiet=ALWAYS),
    "no traffic": Case("SeefoodFailures", outcomes((0, 0), (0, 0)), quiet=ALWAYS),
    "all is shed, nothing fails": Case("SeefoodFailures", outcomes((10, 5), (0, 0), (0, 100)), quiet=ALWAYS),
    "one photo a minute, which fails": Case(
        "SeefoodFailuresAtLowTraffic",
        {
            f'{OUTCOMES}{{outcome="answered", cause=""}}': counter((1 / 60, 1800), (0, 900), (1 / 60, 900)),
            f'{OUTCOMES}{{outcome="failed", cause=""}}': counter((0, 1800), (1 / 60, 900), (0, 900)),
        },
        [2600],
        [1790, 3200],
    ),
    "one photo a minute, of which a third fails": Case(
        "SeefoodFailuresAtLowTraffic",
        {
            f'{OUTCOMES}{{outcome="answered", cause=""}}': counter((2 / 180, 1800)),
            f'{OUTCOMES}{{outcome="failed", cause=""}}': counter((1 / 180, 1800)),
        },
        quiet=range(0, 1800, 60),
    ),
    "an outage under traffic": Case("SeefoodFailuresAtLowTraffic", outcomes((10, 0), (0, 10)), quiet=ALWAYS),
    "5 % slow": Case("SeefoodSlow", latency((10, 10), (0, 0.5)), FIRES, QUIET),
    "slow uploads": Case("SeefoodSlow", latency((10, 10), (0, 0), (0, 0.5)), quiet=ALWAYS),
    "0.8 % slow": Case("SeefoodSlow", latency((10, 10), (0, 0.08)), quiet=ALWAYS),
    "one of two slow": Case("SeefoodSlow", latency((0.02, 0.02), (0, 0.01)), quiet=ALWAYS),
    "no photo": Case("SeefoodSlow", latency((0, 0), (0, 0)), quiet=ALWAYS),
    "a tenth is shed": Case("SeefoodShed", outcomes((10, 9), (0, 0), (0, 1)), FIRES, QUIET),
    "4 % are shed": Case("SeefoodShed", outcomes((10, 9.6), (0, 0), (0, 0.4)), quiet=ALWAYS),
    "one of two shed": Case("SeefoodShed", outcomes((0.02, 0.01), (0, 0), (0, 0.01)), quiet=ALWAYS),
    "a long queue": Case("SeefoodQueue", {"seefood_door_waiting_cpu_seconds": level(0, 7)}, FIRES, QUIET),
    "half a queue": Case("SeefoodQueue", {"seefood_door_waiting_cpu_seconds": level(0, 4.9)}, quiet=ALWAYS),
    "a burst": Case("SeefoodQueue", {"seefood_door_waiting_cpu_seconds": gauge((0, 180), (9, 30), (0, 450))}, quiet=ALWAYS),
    "a restart": Case("SeefoodRestarts", restarts([0] * 18 + [1] * 48), [200, 290], QUIET),
    "many restarts long ago": Case("SeefoodRestarts", restarts([7] * 66), quiet=ALWAYS),
    "the server started again, which counts from 0": Case("SeefoodRestarts", restarts([7] * 18 + [0] * 48), quiet=ALWAYS),
    "a release that is not served": Case("SeefoodReleaseLag", state("seefood_instance_release_served", (1, 0)), FIRES, QUIET),
    "a status that cannot be written": Case(
        "SeefoodReleaseLag",
        state("seefood_instance_status_written", (1, 0)) | {"seefood_instance_release_served": level(1, 1)},
        FIRES,
        QUIET,
    ),
    "neither served nor reported, the one after the other": Case(
        "SeefoodReleaseLag",
        {
            **state("x", (0, 0)),
            "seefood_instance_release_served": gauge((1, 180), (0, 60), (1, 420)),
            "seefood_instance_status_written": gauge((1, 230), (0, 70), (1, 360)),
        },
        fires=[280],
    ),
    "a release that is served within a minute": Case(
        "SeefoodReleaseLag",
        {**state("x", (0, 0)), "seefood_instance_release_served": gauge((1, 180), (0, 70), (1, 410))},
        quiet=ALWAYS,
    ),
    "a release, while it ends": Case(
        "SeefoodReleaseLag", state("seefood_instance_release_served", (1, 0), draining=(0, 1)), quiet=ALWAYS
    ),
    "a full disk": Case("SeefoodDisk", disk((5e9, 0)), FIRES, QUIET),
    "too little room": Case("SeefoodDisk", disk((5e9, 299e6)), FIRES, QUIET),
    "a full disk, and no room asked for": Case(
        "SeefoodDisk",
        {"seefood_instance_disk_free_bytes": level(5e9, 0), "seefood_instance_disk_min_free_bytes": level(0, 0)},
        FIRES,
        QUIET,
    ),
    "just enough room": Case("SeefoodDisk", disk((5e9, 301e6)), quiet=ALWAYS),
    "half is unsure": Case("SeefoodUnsure", unsure((5, 5), (0.05, 0.5)), FIRES, QUIET),
    "a quarter is unsure": Case("SeefoodUnsure", unsure((5, 5), (0.05, 0.25)), quiet=ALWAYS),
    "few photos, all unsure": Case("SeefoodUnsure", unsure((0.3, 0.3), (0.05, 1)), quiet=ALWAYS),
    "darker photos": Case("SeefoodDrift", drift(30), FIRES, QUIET),
    "ordinary photos": Case("SeefoodDrift", drift(3.9), quiet=ALWAYS),
    "no prediction": Case("SeefoodUnsure", unsure((0, 0), (0, 0)), quiet=ALWAYS),
}


def alerts():
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


@needs_promtool
@pytest.mark.parametrize("name", alerts())
def test_alert_fires_on_its_cause_alone_and_clears(name, tmp_path):
    check([case for case in CASES.values() if case.alert == name], tmp_path)


@needs_promtool
def test_promtool_takes_configuration_and_rules():
    for path in sorted(PROMETHEUS.glob("*.yml")):
        assert "2 rule files found" in promtool("check", "config", path)
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_each_alert_has_a_cause_that_fires_it_and_what_does_not():
    for name in alerts():
        cases = [case for case in CASES.values() if case.alert == name]
        assert any(case.fires for case in cases), name
        assert any(not case.fires for case in cases), name


@pytest.mark.parametrize("name", alerts())
def test_alert_says_what_happened_and_what_to_do_next(name):
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook"} == set(rule["annotations"])
    assert len(re.sub(r"\{\{.*?\}\}", "a word", rule["annotations"]["summary"])) < 120
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_windows_are_short_enough_for_alerts_to_clear_soon():
    text = "".join(path.read_text() for path in RULES)
    windows = set(re.findall(r"\[(\w+)[\]:]", text))
    assert windows == {"1m", "2m", "5m", "15m"}  # the last two: at low traffic


def test_an_alert_of_a_models_metric_names_the_model_in_its_summary():
    of_models = {
        name for name, rule in alerts().items() if re.search(r"seefood_(drift|unsure|top1|door_model|predictions)", rule["expr"])
    }
    assert of_models == {"SeefoodUnsure", "SeefoodDrift"}
    for name, rule in alerts().items():
        assert ("$labels.model" in rule["annotations"]["summary"]) == (name in of_models)


@needs_promtool
def test_summaries_are_rendered_with_the_model_and_without_one(tmp_path):
    def expected(model):
        annotations = alerts()["SeefoodDrift"]["annotations"]
        annotations["summary"] = f"a:8082: brightness of the last 500 photos is not the reference's ({model}1.0.0)"
        annotations["description"] = annotations["description"].replace("{{ $value | humanize }}", "30")
        labels = {"severity": "warning", "job": "seefood", "instance": "a:8082", "version": "1.0.0"}
        labels |= {"signal": "brightness", "window": "500"} | ({"model": model.strip()} if model else {})
        return {"exp_labels": labels, "exp_annotations": annotations}

    series = [
        {"series": f'seefood_drift{{job="seefood", instance="a:8082", {model}version="1.0.0", signal="brightness", window="500"}}'}
        for model in ('model="food", ', "")
    ]
    test = {"interval": "10s", "input_series": [one | {"values": "30x20"} for one in series]}
    test["alert_rule_test"] = [{"eval_time": "180s", "alertname": "SeefoodDrift", "exp_alerts": [expected("food "), expected("")]}]
    content = {"rule_files": [str(path) for path in RULES], "evaluation_interval": "10s", "tests": [test]}
    (tmp_path / "test.yml").write_text(json.dumps(content))
    promtool("test", "rules", tmp_path / "test.yml")
