"""Grafana's dashboards as JSON, from a few words for each panel: Grafana 10 and newer (schemaVersion 39)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 39
WIDTH = 24  # of Grafana's grid
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# the colours by which Grafana names its own
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Query:
    """PromQL, and what its series are called: `{{label}}`, or words."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. `limits` are values from which it is yellow and red, drawn as lines in a time series; `text` says what it shows.

    `kind`: timeseries; stat and table and bargauge, which show the newest values; heatmap, of a histogram's buckets.
    """

    title: str
    unit: str
    queries: Sequence[Query]
    text: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    limits: tuple[float, ...] = ()
    low_is_bad: bool = False
    stacked: bool = False
    words: Mapping[str, str] = field(default_factory=dict)  # for values that stand for something, e.g. {"0": "not ready"}


@dataclass(frozen=True)
class Row:
    """Panels under a title."""

    title: str
    panels: Sequence[Panel]


def dashboard(uid: str, title: str, text: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The dashboard, as Grafana reads it from a file."""
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": ["seefood"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair in all panels
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), _instance()]},
        "annotations": {"list": [_alerts()]},
        "links": [{"type": "dashboards", "title": "SeeFood", "tags": ["seefood"], "asDropdown": False, "keepTime": True}],
        "panels": _placed(rows),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}


def _instance() -> dict[str, Any]:
    query = 'label_values(up{job="seefood"}, instance)'
    return {
        "name": "instance",
        "label": "Instance",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "instances"},
        "refresh": 2,  # when the time range changes
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
        "hide": 0,
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": RED,
        "expr": 'ALERTS{job="seefood", instance=~"$instance", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}}",
        "step": "10s",
    }


def _placed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All panels with their places: from left to right, and a new line where one does not fit."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place}
        )
        x, y, line = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, line = 0, y + line, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append({"id": len(placed) + 1, "gridPos": place} | _content(panel))
            x, line = x + panel.width, max(line, panel.height)
        y += line
    return placed


def _content(panel: Panel) -> dict[str, Any]:
    defaults = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "thresholds" if panel.limits and panel.kind != "timeseries" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": _steps(panel)},
        "mappings": _mappings(panel),
        "custom": _drawn(panel),
    }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "targets": [_target(panel, query, letter) for query, letter in zip(panel.queries, "ABCDEFGH", strict=False)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": OPTIONS[panel.kind],
    }


def _target(panel: Panel, query: Query, letter: str) -> dict[str, Any]:
    now = panel.kind in ("stat", "table", "bargauge")
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend,
        "instant": now,
        "range": not now,
        "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
    }


def _steps(panel: Panel) -> list[dict[str, Any]]:
    colours = [GREEN, YELLOW, RED] if len(panel.limits) == 2 else [GREEN, RED]
    if panel.low_is_bad:
        colours = colours[::-1]
    return [{"color": colour, "value": value} for colour, value in zip(colours, (None, *panel.limits), strict=False)]


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.words:
        return []
    return [
        {"type": "value", "options": {value: {"text": word, "index": i} for i, (value, word) in enumerate(panel.words.items())}}
    ]


def _drawn(panel: Panel) -> dict[str, Any]:
    if panel.kind != "timeseries":
        return {}
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 20 if panel.stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if panel.limits else "off"},
    }


_NEWEST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": _NEWEST, "colorMode": "background", "graphMode": "none", "textMode": "value_and_name"},
    "bargauge": {"reduceOptions": _NEWEST, "orientation": "horizontal", "displayMode": "basic", "showUnfilled": True},
    "table": {"showHeader": True},
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"axisPlacement": "left", "unit": "short"},
        "legend": {"show": True},
    },
}
