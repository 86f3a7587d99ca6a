"""A plugin of fixtures: tests of make deploy and make destroy name it in pytest_plugins."""

import os

import pytest

from scripts.archive.name import archive_name
from scripts.command import run
from scripts.ecs import stack
from scripts.ecs.deploy import changes, deploy, destroy, watch
from scripts.ecs.deploy.watch import TASK_DEFINITION
from scripts.ecs.progress import Limit
from scripts.ecs.stacks import ORDER, Deployment
from tests.ecs.deploying import BUCKET, DEPLOYMENT, DOCKER, OUTPUTS, URI, put_image
from tests.ecs.scripted_aws import (
    NAME,
    REGION,
    Fleet,
    Recorder,
    ScriptedStacks,
    moto,
    read_template,
    reset,
)


@pytest.fixture(scope="module")
def server():
    with moto() as aws:
        yield aws


@pytest.fixture(scope="module")
def recorder(server):
    return Recorder()


@pytest.fixture
def scripted(server, recorder, monkeypatch, tmp_path):
    """CloudFormation without a stack, an empty registry and bucket, a stand-in for docker, and an archive."""
    reset()
    for module in (stack, changes, watch):
        monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(deploy, "Aws", lambda region: server)
    monkeypatch.setattr(destroy, "Aws", lambda region: server)
    monkeypatch.setattr(Deployment, "load", lambda name: DEPLOYMENT)
    for module in (deploy, destroy):
        monkeypatch.setattr(module, "read_template", read_template)
    server.call("s3", "create_bucket", Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    server.call("s3", "put_bucket_versioning", Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    server.call("ecr", "create_repository", repositoryName=NAME)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "docker").write_text(DOCKER)
    (tools / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CALLS", str(tmp_path / "docker"))
    models = tmp_path / "models"
    models.mkdir()
    (models / archive_name("seefood", "1.0.0")).write_bytes(b"an archive")
    stacks = ScriptedStacks(server.client("cloudformation"), OUTPUTS)
    yield stacks
    stacks.close()


@pytest.fixture
def command(scripted, recorder, capsys, tmp_path):
    """Runs make deploy, or another command; (exit status, what it printed)."""

    def run_command(*arguments, main=deploy.main):
        given = [NAME, *arguments]
        if main is deploy.main:
            given += ["--model-store", str(tmp_path / "models")]
        capsys.readouterr()
        recorder.on = True
        try:
            status = run(lambda: main([*given, "--limit-s", "20"]))
        finally:
            recorder.on = False
        out, error = capsys.readouterr()
        return status, out + error

    return run_command


@pytest.fixture
def docker(tmp_path):
    calls = tmp_path / "docker"
    return lambda: calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def deployed(scripted, server):
    """All stacks, as a deploy of the image `old` left them, with a fleet of one task."""
    fleet = Fleet()
    known = {"Image": f"{URI}:old"}
    for kind in ORDER:
        scripted.make(kind, values=DEPLOYMENT.values(read_template(kind), known))
        known |= OUTPUTS[kind]
    scripted.event(
        scripted.stacks[f"{NAME}-service"], TASK_DEFINITION, "TaskDefinition", "CREATE_COMPLETE", physical=fleet.definition
    )
    for tag in ("old", "new"):
        put_image(server, tag)
    server.call("s3", "put_object", Bucket=BUCKET, Key="release.json", Body=b"written before")
    return fleet


@pytest.fixture
def clock(monkeypatch):
    """The time limit is over when something is in this list."""
    over = []
    monkeypatch.setattr(Limit, "left_s", property(lambda self: -1.0 if over else 20.0))
    return over
