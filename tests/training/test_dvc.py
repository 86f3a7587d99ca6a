"""The pipeline and the remote, with a real DVC, a real git and moto's S3 server, in a copy of the project."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx
import pytest
import yaml
from moto.server import ThreadedMotoServer

from scripts.archive.build import check
from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.serving.server import Server
from tests.waiting import until
from training.data.pictures import generate
from training.model import Checkpoint
from training.params import Params
from training.tracking.provenance import dvc_version

ARCHIVE = Path("model_store/seefood-1.0.0.mar")
PERSON = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
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


def environment(folder: Path) -> dict[str, str]:
    """In which `python` and `dvc` are this environment's own, and a commit has an author."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | PERSON | {"PATH": path, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


def run(folder: Path, *command: str, code: int = 0, **extra: str) -> str:
    """Output of a command that must end with this exit code."""
    done = subprocess.run(
        command, cwd=folder, env=environment(folder) | extra, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def interrupt(folder: Path, *command: str, when) -> tuple[int, str]:
    """Exit code and output of a command that gets a Ctrl-C once `when` of its output so far is true."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout
    os.set_blocking(process.stdout.fileno(), False)
    output = b""

    def is_time():
        nonlocal output
        output += process.stdout.read() or b""
        return when(output)

    try:
        until(is_time, lambda: output, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        os.set_blocking(process.stdout.fileno(), True)
        output += process.communicate(timeout=LIMIT_S)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT_S)
    return process.returncode, output.decode()


def remote(folder: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    return run(folder, sys.executable, "-m", "training.data.remote", *arguments, code=code, **environment)


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", message)


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


def stale(folder: Path) -> list[str]:
    """The stages of which an own input has changed."""
    return sorted(json.loads(run(folder, "dvc", "status", "--json")), key=STAGES.index)


def test_train_stage_depends_on_every_parameter_that_touches_the_result():
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["params"]
    assert set(listed) == Params.model_fields.keys() - {"workers", "cache", "checkpoint_minutes"}


def test_every_file_that_a_stage_names_exists():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for dep in stage["deps"]:
            assert dep.startswith(("$", "build/", "runs/")) or (ROOT / dep).exists(), dep


@pytest.mark.slow
def test_pipeline_runs_all_stages_once_and_then_none(project):
    folder, said = project
    assert ran(said) == STAGES
    assert "Data and pipelines are up to date" in run(folder, "dvc", "repro")
    check(folder / ARCHIVE)
    assert "data/food.dvc" in run(folder, "git", "ls-files")
    assert "data/food/" not in run(folder, "git", "ls-files")
    assert stale(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("params.yaml", "weight_decay: 0.05", "weight_decay: 0.06", ["train"]),
        ("params.yaml", "val_fraction: 0.2", "val_fraction: 0.3", ["prepare", "train"]),
        ("params.yaml", "workers: 0", "workers: 1", []),
        ("training/record.py", '"""', '"""\n', ["train"]),
        ("training/tracking/provenance.py", '"""', '"""\n', ["train"]),
        ("training/data/split.py", '"""', '"""\n', ["prepare", "train", "evaluate", "export"]),
        ("training/export/gate.py", '"""', '"""\n', ["export"]),
        ("training/evaluation/plots.py", '"""', '"""\n', ["evaluate"]),
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


@dataclass
class Versions:
    """Two models of the project, both pushed and committed: the commits, the archives' sha256, and what was said on the way."""

    folder: Path
    commits: list[str]
    archives: list[str]
    killed: str
    went_on: str


@pytest.fixture(scope="module")
def versions(project, s3) -> Versions:
    """The second one has other rates and another number, and its pipeline was killed while it trained."""
    folder, _ = project
    assert "make push" in remote(folder, "set", "s3://kept/seefood", "--endpoint", s3)
    before = dvc_version(folder / "data" / "food")
    remote(folder, "push")
    assert dvc_version(folder / "data" / "food") == before  # the .dvc file looks otherwise now
    assert stale(folder) == []
    commit(folder, "first model")
    first = run(folder, "git", "rev-parse", "HEAD").strip(), sha256(folder / ARCHIVE)

    values = yaml.safe_load((folder / "params.yaml").read_text())
    # top5 of three classes is 1 from the first epoch on: none after it is better
    values |= {"lr": 0.01, "epochs": 12, "best_metric": "top5"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text().replace("version: 1.0.0", "version: 1.1.0"))
    code, killed = interrupt(folder, "dvc", "repro", when=lambda output: b"epoch 2/12: loss" in output)
    assert code != 0
    went_on = run(folder, "dvc", "repro")
    remote(folder, "push")
    commit(folder, "second model")
    second = run(folder, "git", "rev-parse", "HEAD").strip(), sha256(folder / "model_store/seefood-1.1.0.mar")
    commits, archives = zip(first, second, strict=True)
    return Versions(folder, list(commits), list(archives), killed, went_on)


@pytest.mark.slow
def test_killed_pipeline_goes_on_and_keeps_the_best_epoch_it_saw(versions):
    assert "stopped by SIGINT" in versions.killed
    assert ran(versions.went_on) == ["train", "evaluate", "export", "archive"]
    assert re.search(r"resuming after step [1-9]", versions.went_on)
    kept = Checkpoint.load(versions.folder / "runs/pipeline/checkpoint.pt")
    assert (kept.epoch, kept.params["lr"]) == (1, 0.01)
    assert len((versions.folder / "runs/pipeline/history.csv").read_text().splitlines()) == 1 + 12


@pytest.mark.slow
def test_parameters_metrics_and_plots_of_two_commits_are_compared(versions):
    changed = json.loads(run(versions.folder, "dvc", "params", "diff", "--json", *versions.commits))["params.yaml"]
    assert changed["lr"] == {"old": 0.003, "new": 0.01, "diff": 0.007}
    assert changed.keys() == {"lr", "epochs", "best_metric"}
    metrics = json.loads(run(versions.folder, "dvc", "metrics", "diff", "--all", "--json", *versions.commits))
    metrics = metrics["runs/pipeline/metrics.json"]
    assert metrics["loss"]["old"] != metrics["loss"]["new"]
    assert metrics["photos"]["old"] == metrics["photos"]["new"]
    run(versions.folder, "dvc", "plots", "diff", "--out", "build/plots", *versions.commits)
    page = (versions.folder / "build/plots/index.html").read_text()
    for name in ("loss", "accuracy", "confusion"):
        assert f"vegaEmbed('#{name}'" in page


@pytest.mark.slow
@pytest.mark.server
def test_clone_pulls_and_serves_its_commits_model_and_an_old_commit_brings_back_the_old_one(versions, tmp_path):
    run(tmp_path, "git", "clone", "-q", str(versions.folder), "clone")
    clone = tmp_path / "clone"
    for number, version in [(1, "1.1.0"), (0, "1.0.0")]:
        run(clone, "git", "checkout", "-q", versions.commits[number])
        assert "make serve" in remote(clone, "pull")
        # alone there: the newest is what is served
        assert [path.name for path in (clone / "model_store").glob("*.mar")] == [f"seefood-{version}.mar"]
        assert sha256(clone / f"model_store/seefood-{version}.mar") == versions.archives[number]
        assert len(list((clone / "data" / "food").rglob("*.jpg"))) == 60
        assert stale(clone) == []
    server = Server(clone / "model_store", free_port()).wait_ready()
    try:
        answer = httpx.post(server.url, content=picture_bytes()).json()
        assert (answer["version"], len(answer["predictions"])) == ("1.0.0", 3)
    finally:
        server.end()


@pytest.mark.slow
def test_push_to_a_second_bucket_is_refused_and_the_way_to_move_there_works(versions, s3):
    folder = versions.folder
    for command in ("push", "pull"):  # with nothing new, after which DVC's index knows where all of it lies
        remote(folder, command)
    assert "To move there: make pull, then" in remote(folder, "set", "s3://other", "--endpoint", s3, code=1)
    run(folder, "dvc", "remote", "modify", "storage", "url", "s3://other")
    output = remote(folder, "push", code=1)
    assert "does not hold the version of" in output
    assert "make remote BUCKET=s3://other [ENDPOINT=url] MOVE=1" in output
    assert objects(s3, "other") == []
    remote(folder, "set", "s3://other", "--endpoint", s3, "--move")
    remote(folder, "push")
    assert {"model_store/seefood-1.1.0.mar", "data/food/class_0/000.jpg"} <= set(objects(s3, "other"))
    shutil.rmtree(folder / ".dvc" / "cache")
    shutil.rmtree(folder / "data" / "food")
    remote(folder, "pull")
    assert (folder / "data" / "food" / "class_0" / "000.jpg").is_file()
    assert stale(folder) == []


@pytest.mark.slow
def test_push_does_not_take_changed_stages_for_run(versions, s3):
    folder, text = versions.folder, (versions.folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(
        text.replace(
            "      - build/pipeline\n      - handler\n",
            "      - build/pipeline\n      - handler\n      - scripts/serving/ports.py\n",
        )
    )
    try:
        remote(folder, "push")
        assert stale(folder) == ["archive"]
    finally:
        (folder / "dvc.yaml").write_text(text)
    assert stale(folder) == []


def bare_repository(folder: Path) -> Path:
    """An empty repository with DVC and the script."""
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    (folder / "data").mkdir()
    (folder / "data" / "x.txt").write_text("x")
    run(folder, "dvc", "add", "-q", "data/x.txt")
    return folder


@pytest.mark.slow
def test_bucket_that_would_lose_data_is_refused_before_anything_is_written(tmp_path, s3):
    folder = bare_repository(tmp_path)
    for address, endpoint, message in [
        ("s3://plain", s3, "keeps no old versions.*put-bucket-versioning --bucket plain"),
        ("s3://missing", s3, "no bucket 'missing'"),
        ("kept", s3, "'kept' is not an S3 address, expected s3://"),
        ("s3://kept", "localhost:9000", "'localhost:9000' is not an endpoint, expected http://"),
        ("s3://kept", s3.replace("//", "//key:secret@"), "credentials belong in the environment"),
    ]:
        assert re.search(message, remote(folder, "set", address, "--endpoint", endpoint, code=1), re.DOTALL)
        assert "remote" not in (folder / ".dvc" / "config").read_text()
    assert objects(s3, "plain") == []
    assert "no remote is set: make remote BUCKET=" in remote(folder, "push", code=1)


CONFLICT = "<<<<<<< HEAD\n{0}=======\n{0}>>>>>>> theirs\n"


@pytest.mark.slow
def test_damaged_files_of_dvc_are_named_with_the_remedy_and_stay_as_they_are(tmp_path, s3):
    folder = bare_repository(tmp_path)
    config, note = folder / ".dvc" / "config", folder / "data" / "x.txt.dvc"
    plain = config.read_text()
    for text, message in [
        (CONFLICT.format("[core]\n    remote = storage\n"), "config cannot be read .*git checkout HEAD -- .dvc/config"),
        ("['remote \"storage\"']\n    version_aware = true\n", "names a remote 'storage' without a url"),
    ]:
        config.write_text(text)
        assert re.search(message, remote(folder, "push", code=1))
        assert config.read_text() == text
    config.write_text(plain + f"['remote \"storage\"']\n    url = s3://kept/x\n    endpointurl = {s3}\n")
    for text in (CONFLICT.format(note.read_text()), "3", "", "outs: 3"):
        note.write_text(text)
        assert "data/x.txt.dvc is not as DVC writes it" in remote(folder, "push", code=1)
        assert note.read_text() == text
    shutil.rmtree(folder / ".dvc")
    assert "there is no folder .dvc here" in remote(folder, "set", "s3://kept/x", "--endpoint", s3, code=1)


@pytest.mark.slow
def test_wrong_and_missing_credentials_are_refused_with_the_reason(tmp_path, s3):
    folder = bare_repository(tmp_path)
    remote(folder, "set", "s3://kept/secret", "--endpoint", s3)
    httpx.post(f"{s3}/moto-api/reset-auth", content="0")
    try:
        output = remote(folder, "push", code=1, AWS_ACCESS_KEY_ID="wrong")
        assert re.search("credentials may not use bucket 'kept'", output)
    finally:
        httpx.post(f"{s3}/moto-api/reset-auth", content="1000000")
    assert not [key for key in objects(s3, "kept") if key.startswith("secret")]
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    for which in (nobody, nobody | {"AWS_ACCESS_KEY_ID": "half"}, {"AWS_PROFILE": "missing"}):
        assert "no AWS credentials: set AWS_ACCESS_KEY_ID" in remote(folder, "push", code=1, **which)
    closed = f"http://127.0.0.1:{free_port()}"
    assert f"at {closed} cannot be reached" in remote(folder, "set", "s3://kept/x", "--endpoint", closed, "--move", code=1)
    assert "secret" not in (folder / ".dvc" / "config").read_text().replace("s3://kept/secret", "")


@pytest.mark.slow
def test_interrupted_push_leaves_the_notes_and_the_command_that_push_prints_commits_them(tmp_path, s3):
    folder = bare_repository(tmp_path)
    (folder / "data" / "many").mkdir()
    for number in range(40):
        (folder / "data" / "many" / f"{number}.txt").write_text(str(number))
    run(folder, "dvc", "add", "-q", "data/many")
    notes = {path: path.read_text() for path in (folder / "data").glob("*.dvc")}
    remote(folder, "set", "s3://kept/many", "--endpoint", s3)
    arrived = "many/data/many/"
    code, output = interrupt(
        *(folder, sys.executable, "-m", "training.data.remote", "push"),
        when=lambda _: any(key.startswith(arrived) for key in objects(s3, "kept")),
    )
    assert code == 130
    assert "interrupted: the same command goes on" in output
    assert {path: path.read_text() for path in notes} == notes

    command = re.search("commit them: (.*)", remote(folder, "push"))
    assert len([key for key in objects(s3, "kept") if key.startswith(arrived)]) == 40
    run(folder, "bash", "-c", command[1])
    assert run(folder, "git", "ls-files", "data/*.dvc").split() == ["data/many.dvc", "data/x.txt.dvc"]
    assert "nothing to commit" in remote(folder, "push")


@pytest.mark.slow
def test_bucket_that_lost_its_versioning_is_refused_by_push_and_a_failed_push_leaves_the_notes(tmp_path, s3):
    folder = bare_repository(tmp_path)
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="fickle")
    client.put_bucket_versioning(Bucket="fickle", VersioningConfiguration={"Status": "Enabled"})
    remote(folder, "set", "s3://fickle", "--endpoint", s3)
    note = (folder / "data" / "x.txt.dvc").read_text()
    client.put_bucket_versioning(Bucket="fickle", VersioningConfiguration={"Status": "Suspended"})
    assert "versioning: Suspended" in remote(folder, "push", code=1)
    assert "make serve" in remote(folder, "pull")  # which overwrites nothing
    assert objects(s3, "fickle") == []
    client.put_bucket_versioning(Bucket="fickle", VersioningConfiguration={"Status": "Enabled"})
    shutil.rmtree(folder / ".dvc" / "cache")  # DVC has nothing to push, and says so with an error
    (folder / "data" / "x.txt").unlink()
    assert "not in this machine's cache: ['data/x.txt']" in remote(folder, "push", code=1)
    assert (folder / "data" / "x.txt.dvc").read_text() == note
    client.close()


def test_pipeline_without_data_says_what_is_missing(tmp_path):
    folder = tmp_path
    for name in ("Makefile", "dvc.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    done = subprocess.run(
        ["make", "-o", ".venv/installed-train", "pipeline"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no photos in data/food: make ingest FROM=folder" in done.stderr
