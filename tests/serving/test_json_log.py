"""A real server's log as CloudWatch gets it: JSON alone, whatever happens to it, and all that the README's queries look for."""

import json
import re
import shutil

import httpx
import psutil
import pytest

from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.serving.server import Server
from tests.waiting import until

PAGE = ROOT / "scripts" / "ecs" / "README.md"
# of CloudWatch Logs Insights: commands, functions and words between them
WORDS = {
    "fields",
    "filter",
    "stats",
    "sort",
    "limit",
    "by",
    "as",
    "asc",
    "desc",
    "in",
    "like",
    "and",
    "or",
    "count",
    "pct",
    "ispresent",
}


def queries():
    """The queries of the README, each by its title."""
    section = PAGE.read_text(encoding="utf-8").split("## Look into the logs")[1].split("\n## ")[0]
    return dict(re.findall(r"\*\*(.+?)\*\*.*?```\n(.+?)```", section, re.DOTALL))


def fields_of(query):
    """The fields that a query names, but for those of CloudWatch itself."""
    query = re.sub(r'"[^"]*"|/[^/\n]*/', " ", query)
    given = set(re.findall(r"\bas (\w+)", query))
    return {name for name in re.findall(r"(?<![\w@.])[a-z_][\w.]*", query) if name not in WORDS | given}


def flat(line, before=""):
    """A line's fields, as Logs Insights names those inside of others."""
    found = {}
    for name, value in line.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def test_each_query_of_the_readme_names_fields():
    assert len(queries()) >= 6
    assert all(fields_of(query) for query in queries().values())


@pytest.fixture(scope="module")
def log(model_store, tmp_path_factory):
    """The lines of a server that answers, refuses, is hurt, is told of another release and ends."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(model_store / "seefood-1.0.0.mar", folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LOG_JSON": "true", "ACCESS_LOG": "true", "CLOUDWATCH_NAMESPACE": "SeeFood/test"}.items():
            patch.setenv(f"SEEFOOD_{name}", value)
        patch.setenv("PYTHONUNBUFFERED", "1")  # as in the image
        server = Server(folder, free_port()).wait_ready()

    def ask(content, **headers):
        return httpx.post(server.url, content=content, headers=headers, timeout=LIMIT_S).status_code

    def killed(name):
        process = server.part(name)
        process.kill()
        psutil.wait_procs([process], timeout=LIMIT_S)

    assert [ask(picture_bytes(1), **{"x-request-id": "an-id"}), ask(b"no photo")] == [200, 415]
    httpx.put(f"{server.management}/seefood/1.0.0?min_worker=0", timeout=LIMIT_S)
    server.wait_output("workers scaled back")
    until(lambda: ask(picture_bytes(1)) == 200)
    killed("worker")
    until(lambda: ask(picture_bytes(1)) == 200)
    killed("JVM")
    assert ask(picture_bytes(1)) == 503
    server.wait_output("TorchServe ended by itself")
    killed("door")
    server.wait_output("the door ended by itself")
    server.wait_ready()
    (folder / "release.json").write_text("{")  # as somebody's slip
    server.wait_output('"problem"')
    output, status = server.end()
    assert status == 0
    return output.splitlines()


@pytest.mark.server
@pytest.mark.slow
def test_every_line_is_a_json_object_and_one_of_a_request_has_its_id_and_version(log):
    lines = [json.loads(line) for line in log]
    assert all(isinstance(line, dict) and line["at"] and ("step" in line) != ("request_id" in line) for line in lines)
    photos = [line for line in lines if line.get("path", "").startswith("/predictions/")]
    assert {line["status"] for line in photos} >= {200, 415, 503}
    assert all(line["request_id"] for line in photos)
    assert {line["version"] for line in photos if line["status"] in (200, 415)} == {"1.0.0"}
    assert [line for line in photos if line["request_id"] == "an-id"]
    assert lines[-1]["step"] == "stopped"


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("title", queries())
def test_each_field_that_a_query_names_is_in_the_log(log, title):
    found = {name for line in log for name in flat(json.loads(line))}
    assert fields_of(queries()[title]) <= found | {"traceback"}  # test_errors.py has one
