"""README's commands, run in their order in a copy of the project, as far as they need no cloud."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from tests.conftest import LIMIT_S, ROOT, free_port
from tests.project.pages import console, shell_lines
from tests.serving.server import status_of
from tests.waiting import until
from training.data.pictures import generate

pytestmark = [pytest.mark.server, pytest.mark.slow]

README = ROOT / "README.md"
# they need an AWS account; tests/ecs runs them against moto and scripted answers
CLOUD = ("make preflight", "make deploy", "make doctor", "make destroy")
ITSELF = "make test"
PORT = "8080"


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_params):
    """A copy of the project with its packages, photos/ of generated pictures, and parameters that train in seconds."""
    folder = tmp_path_factory.mktemp("readme") / "seefood"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    venv = folder / ".venv"
    venv.mkdir()
    for path in (ROOT / ".venv").iterdir():
        if path.name.startswith("installed-"):
            (venv / path.name).touch()
        else:
            (venv / path.name).symlink_to(path)
    generate(folder / "photos", num_classes=3, per_class=20)
    params = tiny_params.model_copy(update={"epochs": 2})
    (folder / "params.yaml").write_text(yaml.safe_dump(params.model_dump()))
    return folder


class Shell:
    """Runs the README's commands in the copy; its port is another one, as others may use that of the README."""

    def __init__(self, folder):
        self.folder, self.port, self.server = folder, free_port(), None
        self.environment = os.environ | {"MLFLOW_TRACKING_URI": "none", "SEEFOOD_BAKE_S": "2"}
        for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
            self.environment.pop(name, None)

    def run(self, command):
        """What the command printed; it must succeed."""
        command = command.replace(PORT, str(self.port))
        if command.startswith(("make serve", "make stop")):
            command += f" PORT={self.port}"
        if command.startswith("make serve"):
            return self.serve(command)
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command.startswith("make stop"):
            assert self.server.wait(LIMIT_S) == 0
            self.server = None
        return done.stdout

    def serve(self, command):
        """Start a server in the background, and wait until it is ready."""
        assert self.server is None, "a server runs already"
        self.server = subprocess.Popen(shlex.split(command), cwd=self.folder, env=self.environment)
        until(lambda: status_of(f"http://127.0.0.1:{self.port}/readyz") == 200, process=self.server)
        return ""

    def close(self):
        """End a server that is left."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait(LIMIT_S)


def test_every_command_of_the_readme_does_what_it_promises(project):
    shell = Shell(project)
    (curl, shown) = console(README)[0]
    ran = []
    try:
        for command in shell_lines(README):
            if command == ITSELF or command.startswith(CLOUD):
                continue
            output = shell.run(command)
            ran.append(command)
            if command == "make serve" and ran.count(command) == 1:
                # the numbers may differ in the last digits from machine to machine, the answer may not
                assert shape(shell.run(curl)) == shape(shown)
            if command.startswith("make predict"):
                assert "bibimbap" in (project / command.split("OUT=")[1]).read_text()
            if command.startswith("make status"):
                assert "1.1.0" in output
    finally:
        shell.close()
    assert {"make train", "make archive", "make rollout", "make rollback"} <= {" ".join(command.split()[:2]) for command in ran}
    assert (project / "runs/latest/report.html").is_file()
    released = json.loads((project / "model_store/release.json").read_text())
    assert (released["default"], released["stage"]) == ("1.0.0", "released")  # after make rollback


def shape(answer):
    """An answer without its last digits."""
    content = json.loads(answer)
    return content | {"predictions": [one | {"probability": round(one["probability"], 1)} for one in content["predictions"]]}


def test_no_command_is_left_out_by_mistake():
    left = [line for line in shell_lines(README) if not re.match(r"make [a-z-]+", line)]
    assert left == []
