"""The pipeline and the remote, with a real DVC, a real git and moto's S3 server, in a copy of the project."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import httpx
import pytest
import yaml
from moto.server import ThreadedMotoServer

from scripts.archive import check
from tests.conftest import ROOT, free_port
from training.params import Params
from training.pictures import generate
from training.provenance import dvc_version

ARCHIVE = Path("model_store/seefood-1.0.0.mar")
STAGES = ["prepare", "train", "evaluate", "export", "archive"]


@pytest.fixture(scope="module")
def s3():
    """Address of an S3 server with a versioned bucket `kept` and an unversioned one `plain`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3", endpoint_url=endpoint)
        for bucket in ("kept", "other", "plain"):
            client.create_bucket(Bucket=bucket)
        for bucket in ("kept", "other"):
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        yield endpoint
    client.close()
    server.stop()


def run(folder: Path, *command: str, code: int = 0, **environment: str) -> str:
    """Output of a command that must end with this exit code; `python` and `dvc` are the environment's own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    extra = {"PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "2", **environment}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **extra}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def remote(folder: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    return run(folder, sys.executable, "scripts/remote.py", *arguments, code=code, **environment)


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


def objects(s3: str, bucket: str) -> list[str]:
    client = boto3.client("s3", endpoint_url=s3)
    found = [o["Key"] for o in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    client.close()
    return found


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A copy of the project as it is now, in a git repository of its own, with tiny parameters and no data."""
    folder = tmp_path_factory.mktemp("project") / "seefood"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\n"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    run(folder, "git", "init", "-q")
    return folder


@pytest.fixture(scope="module")
def project(bare, tiny_params) -> tuple[Path, str]:
    """That copy with pictures under DVC and the pipeline run once, committed; and what dvc repro said."""
    generate(bare / "data" / "food", num_classes=3, per_class=20)
    params = tiny_params.model_copy(update={"epochs": 1})
    (bare / "params.yaml").write_text(yaml.safe_dump(params.model_dump()))
    run(bare, "dvc", "add", "-q", "data/food")
    said = run(bare, "dvc", "repro")
    commit(bare, "first")
    return bare, said


def set_param(folder: Path, **changes: object) -> None:
    values = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(values | changes))


def stale(folder: Path) -> list[str]:
    """The stages of which an own input has changed."""
    return sorted(json.loads(run(folder, "dvc", "status", "--json")), key=STAGES.index)


def test_train_stage_depends_on_every_parameter_that_touches_the_result():
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["params"]
    assert set(listed) == Params.model_fields.keys() - {"workers", "checkpoint_minutes"}


def test_every_file_that_a_stage_names_exists():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for dep in stage["deps"]:
            assert dep.startswith(("$", "build/", "runs/")) or (ROOT / dep).exists(), dep


def test_pipeline_runs_all_stages_once_and_then_none(project):
    folder, said = project
    assert ran(said) == STAGES
    assert "Data and pipelines are up to date" in run(folder, "dvc", "repro")
    check(folder / ARCHIVE)
    assert "data/food.dvc" in run(folder, "git", "ls-files")
    assert "data/food/" not in run(folder, "git", "ls-files")


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("params.yaml", "weight_decay: 0.05", "weight_decay: 0.06", ["train"]),
        ("params.yaml", "val_fraction: 0.2", "val_fraction: 0.3", ["prepare", "train"]),
        ("params.yaml", "workers: 0", "workers: 1", []),
        ("training/plots.py", '"""', '"""\n', ["evaluate"]),
        ("handler/model-config.yaml", "batchSize: 8", "batchSize: 4", ["archive"]),
        ("dvc.yaml", "version: 1.0.0", "version: 1.0.1", ["archive"]),
    ],
)
def test_change_makes_its_own_stages_stale(project, file, old, new, stages):
    folder, _ = project
    before = (folder / file).read_text()
    assert old in before
    (folder / file).write_text(before.replace(old, new, 1))
    try:
        assert stale(folder) == stages
    finally:
        (folder / file).write_text(before)
    assert stale(folder) == []


def test_push_clone_pull_and_an_old_commit_brings_back_the_old_model(project, s3, tmp_path):
    folder, _ = project
    assert "make push" in remote(folder, "set", "s3://kept/seefood", "--endpoint", s3)
    version = dvc_version(folder / "data" / "food")
    assert "git commit" in remote(folder, "push")
    assert dvc_version(folder / "data" / "food") == version  # the .dvc file looks otherwise now
    assert stale(folder) == []
    commit(folder, "pushed")
    old_archive, old_commit = sha256(folder / ARCHIVE), run(folder, "git", "rev-parse", "HEAD").strip()

    set_param(folder, lr=0.01, seed=0)
    assert ran(run(folder, "dvc", "repro")) == ["train", "evaluate", "export", "archive"]
    assert "lr" in run(folder, "dvc", "params", "diff")
    assert "top1" in run(folder, "dvc", "metrics", "diff", "--all")
    shown = json.loads(run(folder, "dvc", "plots", "diff", "--json", "HEAD"))
    assert "confusion" in str(shown)
    remote(folder, "push")
    commit(folder, "second")
    assert sha256(folder / ARCHIVE) != old_archive

    run(tmp_path, "git", "clone", "-q", str(folder), "clone")
    clone = tmp_path / "clone"
    assert "make serve" in remote(clone, "pull")
    assert sha256(clone / ARCHIVE) == sha256(folder / ARCHIVE)
    assert len(list((clone / "data" / "food").rglob("*.jpg"))) == 60
    assert stale(clone) == []
    run(clone, "git", "checkout", "-q", old_commit)
    remote(clone, "pull")
    assert sha256(clone / ARCHIVE) == old_archive
    check(clone / ARCHIVE)


def test_second_bucket_is_refused_and_the_way_to_move_there_works(project, s3):
    folder, _ = project
    remote(folder, "set", "s3://kept/seefood", "--endpoint", s3)
    assert "To move there: make pull, then" in remote(folder, "set", "s3://other", "--endpoint", s3, code=1)
    assert objects(s3, "other") == []
    remote(folder, "set", "s3://other", "--endpoint", s3, "--move")
    remote(folder, "push")
    assert str(ARCHIVE) in objects(s3, "other")
    assert "data/food/dish_0/000.jpg" in objects(s3, "other")
    assert stale(folder) == []


def bare_repository(folder: Path) -> Path:
    """An empty repository with DVC and the script."""
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    (folder / "scripts").mkdir()
    shutil.copyfile(ROOT / "scripts" / "remote.py", folder / "scripts" / "remote.py")
    (folder / "data").mkdir()
    (folder / "data" / "x.txt").write_text("x")
    run(folder, "dvc", "add", "-q", "data/x.txt")
    return folder


def test_bucket_that_would_lose_data_is_refused_before_anything_is_written(tmp_path, s3):
    folder = bare_repository(tmp_path)
    for address, message in [
        ("s3://plain", "keeps no old versions.*put-bucket-versioning --bucket plain"),
        ("s3://missing", "no bucket 'missing'"),
        ("kept", "'kept' is no S3 address, expected s3://"),
    ]:
        assert re.search(message, remote(folder, "set", address, "--endpoint", s3, code=1), re.DOTALL)
        assert "remote" not in (folder / ".dvc" / "config").read_text()
    assert objects(s3, "plain") == []
    assert "no remote is set: make remote BUCKET=" in remote(folder, "push", code=1)


def test_wrong_and_missing_credentials_are_refused_with_the_reason(tmp_path, s3):
    folder = bare_repository(tmp_path)
    httpx.post(f"{s3}/moto-api/reset-auth", content="0")
    try:
        said = remote(folder, "set", "s3://kept/x", "--endpoint", s3, code=1, AWS_ACCESS_KEY_ID="wrong")
        assert re.search("credentials may not use bucket 'kept'", said)
    finally:
        httpx.post(f"{s3}/moto-api/reset-auth", content="1000000")
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    assert "no AWS credentials: set AWS_ACCESS_KEY_ID" in remote(folder, "set", "s3://kept/x", "--endpoint", s3, code=1, **nobody)
    closed = f"http://127.0.0.1:{free_port()}"
    assert f"at {closed} cannot be reached" in remote(folder, "set", "s3://kept/x", "--endpoint", closed, code=1)


def test_bucket_that_lost_its_versioning_is_refused_by_push_and_a_failed_push_leaves_the_notes(tmp_path, s3):
    folder = bare_repository(tmp_path)
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="fickle")
    client.put_bucket_versioning(Bucket="fickle", VersioningConfiguration={"Status": "Enabled"})
    remote(folder, "set", "s3://fickle", "--endpoint", s3)
    note = (folder / "data" / "x.txt.dvc").read_text()
    client.put_bucket_versioning(Bucket="fickle", VersioningConfiguration={"Status": "Suspended"})
    assert "versioning: Suspended" in remote(folder, "push", code=1)
    assert objects(s3, "fickle") == []
    client.put_bucket_versioning(Bucket="fickle", VersioningConfiguration={"Status": "Enabled"})
    shutil.rmtree(folder / ".dvc" / "cache")  # DVC has nothing to push, and says so with an error
    (folder / "data" / "x.txt").unlink()
    assert "not in this machine's cache: ['x.txt']" in remote(folder, "push", code=1)
    assert (folder / "data" / "x.txt.dvc").read_text() == note
    client.close()


def test_pipeline_without_data_says_what_is_missing(tmp_path):
    folder = tmp_path
    shutil.copyfile(ROOT / "Makefile", folder / "Makefile")
    done = subprocess.run(
        ["make", "-o", ".venv/installed-train", "pipeline"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no photos in data/food: make ingest FROM=folder" in done.stderr
