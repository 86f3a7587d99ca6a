"""The DAG, read by a real Airflow in an environment of its own."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.retrain.steps import STEPS
from tests.conftest import LIMIT_S, ROOT

DAG = ROOT / "scripts/retrain/airflow_dag.py"
AIRFLOW = ("apache-airflow-core==3.1.5", "apache-airflow-providers-standard")
READ = """
import json, sys
from airflow.models.dagbag import DagBag
bag = DagBag(sys.argv[1], include_examples=False)
dags = [
    {"id": dag.dag_id, "catchup": dag.catchup, "active": dag.max_active_runs,
     "tasks": [[t.task_id, t.bash_command, t.cwd, t.retries, *t.skip_on_exit_code] for t in dag.topological_sort()]}
    for dag in bag.dags.values()
]
print("FOUND " + json.dumps({"errors": bag.import_errors, "dags": dags}))
"""


def test_the_dag_has_the_steps_of_make_retrain():
    names = next(
        ast.literal_eval(node.value)
        for node in ast.parse(DAG.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STEPS"
    )
    assert names == tuple(step.name for step in STEPS)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory) -> Path:
    """The Python of an environment with Airflow. Skips where it cannot be installed."""
    folder = tmp_path_factory.mktemp("airflow")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "-p", sys.executable, folder / "venv"], check=True, timeout=LIMIT_S)
    python = folder / "venv/bin/python"
    done = subprocess.run(
        [uv, "pip", "install", "-q", "--python", python, *AIRFLOW], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"Airflow cannot be installed: {done.stderr.strip()[-200:]}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("source", ["", "s3://photos/it's new"])
def test_airflow_reads_the_dag(airflow, tmp_path, source):
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/seefood.py").write_text(DAG.read_text())
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path / "home")}
    environment |= {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "SEEFOOD_CHECKOUT": "/srv/seefood", "SEEFOOD_COLLECT": source}
    done = subprocess.run(
        [airflow, "-c", READ, tmp_path / "dags"], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))[6:])
    assert found["errors"] == {}
    (dag,) = found["dags"]
    assert (dag["id"], dag["catchup"], dag["active"]) == ("seefood_retrain", False, 1)
    names = ["collect"] * bool(source) + [step.name for step in STEPS]
    assert [task[0] for task in dag["tasks"]] == names
    assert all(task[2:] == ["/srv/seefood", 2, 99] for task in dag["tasks"])
    for name, command, *_ in dag["tasks"]:
        expected = "-m scripts.collection.collect -- s3://photos/it's new"
        if name != "collect":
            expected = f"-m scripts.retrain.retrain --nothing-new-status 99 --until {name}"
        for status in (0, 1, 3, 99):
            # of a collection some photos may be missing; another status is the task's
            ended = 0 if name == "collect" and status == 3 else bool(status) if name == "collect" else status
            assert played(tmp_path, command, status) == (ended, expected)


def played(folder, command, status):
    """(the status of a task's command, what its Python was given), where that ends with `status`."""
    (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
    (folder / "Makefile").write_text(".venv/installed-train .venv/installed-serve:\n\t@true\n")
    (folder / ".venv/bin/python").write_text(f'#!/bin/bash\nprintf %s "$*"\nexit {status}\n')
    (folder / ".venv/bin/python").chmod(0o755)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return done.returncode, done.stdout
