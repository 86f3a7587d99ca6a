"""/openapi.json is true, /docs shows it, and the README's table of statuses is the code's."""

import subprocess
import sys
from pathlib import Path

import pytest
from starlette.routing import Router

from scripts.door.api.openapi import document
from scripts.door.api.operations import OPERATIONS
from scripts.door.api.statuses import STATUSES, statuses_markdown
from scripts.door.pages import page_files
from scripts.door.state import State
from tests.conftest import ROOT
from tests.door.without_server import application

STATE = State(models={"seefood": {"default": "1.0.0", "versions": {"1.0.0": {}, "1.1.0": {}}}})
# the door's own pages and metrics are no operations of the API
NOT_DESCRIBED = page_files().keys() | {"/metrics"}


def refs(value):
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        for one in value.values():
            yield from refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from refs(one)


def test_description_names_models_and_versions():
    paths = document(STATE)["paths"]
    model, version = paths["/predictions/{model}/{version}"]["post"]["parameters"][:2]
    assert (model["schema"]["enum"], version["schema"]["enum"]) == (["seefood"], ["1.0.0", "1.1.0"])
    assert "enum" not in document(State())["paths"]["/v2/models/{model}"]["get"]["parameters"][0]["schema"]


def test_references_lead_somewhere_and_ids_are_unique():
    described = document(STATE, keys=True, rates=True)
    names = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert set(refs(described)) <= names
    ids = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)


def test_keys_and_rates_are_described_where_they_are_set():
    post = document(STATE, keys=True, rates=True)["paths"]["/predictions/{model}"]["post"]
    assert {"401", "429"} <= set(post["responses"])
    assert post["security"]
    assert "security" not in document(STATE, keys=True)["paths"]["/livez"]["get"]
    assert "security" not in document(STATE)["paths"]["/predictions/{model}"]["post"]


def routes_of(app):
    while not isinstance(app, Router):
        app = app.app
    return app.routes


def test_table_of_operations_is_the_applications():
    described = [route for route in routes_of(application(STATE)) if route.path not in NOT_DESCRIBED]
    routes = {(method.lower(), route.path) for route in described for method in route.methods - {"HEAD"}}
    assert {(operation.method, operation.path) for operation in OPERATIONS} == routes


def test_statuses_are_those_that_errors_have():
    assert {status for operation in OPERATIONS for status in operation.errors} <= set(STATUSES)


def test_readme_holds_the_table_of_statuses():
    assert statuses_markdown() in (ROOT / "scripts" / "door" / "README.md").read_text()


CONFIG = """
[phases.coverage]
# not TRACE, which the layer below answers 501 on any path
unexpected-methods = ["DELETE", "PATCH", "OPTIONS"]

[checks.positive_data_acceptance]
# whether bytes are a photo is nothing that a schema can say
expected-statuses = ["2xx", 404, 413, 415, 422]

[checks.negative_data_rejection]
# 413 among them: a text that is too long
expected-statuses = ["4xx"]
"""


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("served", ["server", "text_server"])
def test_schemathesis_finds_nothing(served, request, tmp_path):
    server = request.getfixturevalue(served)
    command = Path(sys.executable).parent / "schemathesis"
    if not command.exists():
        pytest.skip("schemathesis is not installed")
    (tmp_path / "config.toml").write_text(CONFIG)

    def run(*options):
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        asked = [command, "--config-file", tmp_path / "config.toml", "run", url, "--no-color", "--seed=1", "--continue-on-failure"]
        done = subprocess.run([*asked, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr

    run("--max-examples=25", "--exclude-path-regex=expla")
    # a heat map takes a second of CPU: the examples alone
    run("--phases=examples", "--include-path-regex=expla")
