"""Grafana's dashboards: the files are those that the code writes, and whole. Whether queries have answers: test_live.py."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from scripts.monitoring.dashboards import FOLDER, dashboards, to_text
from scripts.monitoring.panels import WIDTH
from tests.conftest import ROOT
from tests.monitoring.rules import PROMETHEUS, RULES

FILES = sorted(FOLDER.glob("*.json"))
MONITORING = ROOT / "scripts" / "monitoring"


def panels(name):
    return json.loads((FOLDER / name).read_text())["panels"]


def test_committed_files_are_what_make_dashboards_writes():
    assert {path.name: path.read_text() for path in FILES} == {name: to_text(content) for name, content in dashboards().items()}


@pytest.mark.parametrize("name", dashboards())
def test_each_panel_has_a_title_a_text_a_unit_and_named_series(name):
    titles = set()
    for panel in panels(name):
        assert panel["title"] not in titles
        titles.add(panel["title"])
        if panel["type"] == "row":
            continue
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["legendFormat"] or panel["type"] == "table"
            # what a legend names must be among the labels that the query keeps
            labels = set(re.findall(r"by \(([^)]*)\)", target["expr"]))
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert not labels or any(label in one.replace(" ", "").split(",") for one in labels)


@pytest.mark.parametrize("name", dashboards())
def test_panels_do_not_overlap_and_fit(name):
    taken = set()
    for panel in panels(name):
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < WIDTH
        taken |= cells
    assert len({panel["id"] for panel in panels(name)}) == len(panels(name))


def test_limits_in_dashboards_are_those_of_the_alerts():
    rules = "".join(path.read_text() for path in RULES)
    lines = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
        for name in dashboards()
        for panel in panels(name)
        if panel["type"] == "timeseries"
    }
    for title, rule in (
        ("Share of photos that failed", "instance:seefood_failed:share2m > {}"),
        ("Share of unsure answers", "instance_version:seefood_unsure:share2m > {}"),
        ("From the whole body to the answer", 'seefood_door_answer_seconds_bucket:increase2m{{le="{}.0"}}'),
        ("CPU that waits", "avg_over_time(seefood_door_waiting_cpu_seconds[1m]) > {}"),
    ):
        assert rule.format(f"{lines[title][0]['value']:g}") in rules


def test_photos_have_the_same_paths_in_all_panels():
    assert len(set(re.findall(r'route=~\\"([^"\\]+)', "".join(path.read_text() for path in FILES)))) == 1


def compose(*profiles, **environment):
    """docker-compose.yml as docker-compose reads it."""
    command = ["docker-compose", *(f"--profile={profile}" for profile in profiles), "config"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose here")
def test_compose_has_prometheus_and_grafana_where_their_images_are_named():
    services = compose("prometheus", "grafana", PROMETHEUS_IMAGE="example.org/prometheus:1", GRAFANA_IMAGE="example.org/grafana:1")
    assert {name: one["profiles"] for name, one in services.items() if "profiles" in one} == {
        "prometheus": ["prometheus"],
        "grafana": ["grafana"],
    }
    assert services["prometheus"]["image"] == "example.org/prometheus:1"
    mounted = dict(one.split(":")[:2] for one in services["prometheus"]["volumes"] + services["grafana"]["volumes"])
    for here in (path for path in mounted if path.startswith("/")):
        assert (ROOT / here).exists(), here
    etc = {there: here for here, there in mounted.items()}
    # what prometheus.yml names is where it looks, and what provisioning names is where Grafana finds it
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/rules", "/etc/prometheus/targets"} <= set(etc)
    provider = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/seefood.yml").read_text())["providers"][0]
    assert etc[provider["options"]["path"]] == str(FOLDER)
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    (targets,) = yaml.safe_load((PROMETHEUS / "compose/server.yml").read_text())
    assert targets["targets"] == ["server:8082"]
    assert services["server"]["environment"]["SEEFOOD_METRICS_HOST"] == "0.0.0.0"


def test_make_starts_what_has_an_image():
    command = ["make", "--dry-run", "compose", "PROMETHEUS_IMAGE=p:1"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "PROMETHEUS_IMAGE='p:1'" in shown
    assert "--profile prometheus" in shown
    assert "--profile grafana" not in shown
