"""The jobs of the workflows that change something, played with stubs: what each does, and takes back when a step fails."""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from tests.conftest import LIMIT_S, ROOT
from tests.project.test_workflows import WORKFLOWS, job_of, steps_of

MAKE = """#!/bin/bash
echo "make $*" >> "$CALLS"
[[ " $FAILS " != *" $1 "* ]]
"""
DOCKER = """#!/bin/bash
echo "docker $*" >> "$CALLS"
[ "$1" != inspect ] || echo "registry/seefood@sha256:feed"
"""
PYTHON = """#!/bin/bash
printf 'torch=cpu\\nplatform=linux/amd64\\nurl=https://food.example.com\\nrepository=registry/seefood\\n'
printf 'release=s3://models/release.json\\nimage=%s\\n' "$IMAGE_BEFORE"
"""


class Played:
    """A job's steps, run in order with stubs for make, docker and Python; `fails` names make targets that fail."""

    def __init__(self, where, folder, fails="", image_before="abc-1.1", **contexts):
        self.folder, self.outcomes, self.outputs = folder, {}, {}
        self.contexts = contexts
        for path, text in {"bin/make": MAKE, "bin/docker": DOCKER, ".venv/bin/python": PYTHON}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
            (folder / path).chmod(0o755)
        shutil.copytree(ROOT / "scripts/ecs/deployments", folder / "scripts/ecs/deployments")
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "CALLS": str(folder / "calls"), "FAILS": fails, "IMAGE_BEFORE": image_before}
        self.environment |= self.values(job_of(where).get("env", {}))
        self.failed, self.printed = False, ""
        for number, step in enumerate(steps_of(where)):
            if "run" in step:
                self.run(step, step.get("id", str(number)))
        self.calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []

    def value(self, name):
        kind, *rest = name.split(".")
        if kind == "steps":
            found = (
                self.outcomes.get(rest[0], "skipped") if rest[1] == "outcome" else self.outputs.get(rest[0], {}).get(rest[2], "")
            )
            return str(found)
        return self.contexts[name]

    def values(self, env):
        return {name: re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: self.value(found[1]), text) for name, text in env.items()}

    def wanted(self, condition):
        """Whether a step runs: of GitHub's expressions, those that the workflows use."""
        if not condition:
            return not self.failed
        terms = condition.split(" && ")
        assert terms[0] == "always()", condition
        for term in terms[1:]:
            name, operator, expected = re.fullmatch(r"([\w.-]+) (==|!=) '(.*)'", term).groups()
            if (self.value(name) == expected) != (operator == "=="):
                return False
        return True

    def run(self, step, name):
        if not self.wanted(step.get("if")):
            return
        output = self.folder / "output"
        output.write_text("")
        environment = self.environment | self.values(step.get("env", {})) | {"GITHUB_OUTPUT": str(output)}
        command = ["bash", "-e", "-c", step["run"]]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        self.printed += done.stdout + done.stderr
        self.outcomes[name] = "success" if done.returncode == 0 else "failure"
        self.failed |= done.returncode != 0
        self.outputs[name] = dict(line.split("=", 1) for line in output.read_text().splitlines())


DEPLOY, IMAGE, RELEASE = ("main.yml", "deploy"), ("main.yml", "image"), ("model-release.yml", "release")
NEW = {"needs.image.outputs.tag": "new-2.1"}
DEPLOYS_NEW = "make deploy STACK=seefood IMAGE=new-2.1 ONLY=service YES=1"
SMOKE = "make smoke URL=https://food.example.com RELEASE=s3://models/release.json"


def test_a_deployment_that_answers_correctly_stays(tmp_path):
    played = Played(DEPLOY, tmp_path, **NEW)
    assert played.calls == ["make .venv/installed-cloud", DEPLOYS_NEW, SMOKE]
    assert not played.failed
    region = yaml.safe_load((ROOT / "scripts/ecs/deployments/seefood.yaml").read_text())["region"]
    assert played.outputs["deployment"] == {"region": region}


def test_the_image_before_comes_back_when_the_smoke_test_fails(tmp_path):
    played = Played(DEPLOY, tmp_path, fails="smoke", **NEW)
    assert played.calls[1:] == [DEPLOYS_NEW, SMOKE, "make deploy STACK=seefood IMAGE=abc-1.1 ONLY=service YES=1"]
    assert played.failed


@pytest.mark.parametrize(("fails", "image_before"), [("deploy", "abc-1.1"), ("smoke", "")], ids=["ECS did that", "there is none"])
def test_nothing_is_taken_back_where(tmp_path, fails, image_before):
    played = Played(DEPLOY, tmp_path, fails=fails, image_before=image_before, **NEW)
    assert played.calls[1:] == [DEPLOYS_NEW, SMOKE][: 1 if fails == "deploy" else 2]
    assert played.failed


def test_an_image_is_pushed_under_a_tag_of_its_own_and_its_digest_is_attested(tmp_path):
    played = Played(IMAGE, tmp_path, **{"github.sha": "c0ffee", "github.run_number": "7", "github.run_attempt": "2"})
    assert played.calls[1:] == [
        "make image TAG=c0ffee-7.2 TORCH=cpu PLATFORM=linux/amd64",
        "docker tag seefood:c0ffee-7.2 registry/seefood:c0ffee-7.2",
        "docker push registry/seefood:c0ffee-7.2",
        "docker inspect --format {{index .RepoDigests 0}} registry/seefood:c0ffee-7.2",
    ]
    attest = steps_of(IMAGE)[-1]
    # GitHub refuses it in private repositories of most plans
    assert attest["if"] == "github.event.repository.visibility == 'public' || vars.ATTEST_PROVENANCE == 'true'"
    assert attest["uses"].startswith("actions/attest-build-provenance@")
    assert played.values(attest["with"]) == {"subject-name": "registry/seefood", "subject-digest": "sha256:feed"}


BY_HAND = {"version": "1.1.0", "model": "flowers", "canary": "", "bake": "300", "answers": ""}


def release(tmp_path, fails="", event="workflow_dispatch", variable="", **given):
    inputs = {f"inputs.{name}": value for name, value in (BY_HAND | given).items()}
    return Played(RELEASE, tmp_path, fails, **inputs, **{"github.event_name": event, "vars.CANARY": variable})


def merged(tmp_path, fails="", variable=""):
    """What a merge of a new dvc.lock starts: without inputs."""
    tmp_path.joinpath("dvc.yaml").write_text(
        "vars:\n  - name: flowers # a comment\n  - data: data/food\n  - version: 1.1.0 # another\n"
    )
    return release(tmp_path, fails, "push", variable, **dict.fromkeys(BY_HAND, ""))


ROLLOUT = "make rollout VERSION=1.1.0 MODEL=flowers CANARY= BAKE=300 ANSWERS= RELEASE=s3://models/release.json"
STATUS = "make status RELEASE=s3://models/release.json"


def test_a_model_goes_from_dvc_to_all_instances(tmp_path):
    played = release(tmp_path)
    assert played.calls == [
        "make .venv/installed-train",
        "make pull",
        "make archive VERSION=1.1.0 MODEL=flowers EXPORTED=build/pipeline",
        "make inspect MAR=model_store/flowers-1.1.0.mar",
        ROLLOUT,
        SMOKE,
        STATUS,
    ]
    assert not played.failed


def test_the_pipelines_own_archive_is_released_as_it_is(tmp_path):
    (tmp_path / "model_store").mkdir()
    (tmp_path / "model_store/flowers-1.1.0.mar").touch()
    assert [call for call in release(tmp_path, canary="10").calls if "archive" in call or "rollout" in call] == [
        ROLLOUT.replace("CANARY=", "CANARY=10")
    ]


def test_a_merged_model_is_released_to_all(tmp_path):
    assert merged(tmp_path).calls[4:] == [ROLLOUT, SMOKE, STATUS]


def test_a_merged_model_goes_to_a_canary_first_where_one_is_named(tmp_path):
    canary = ROLLOUT.replace("CANARY=", "CANARY=10")
    assert merged(tmp_path, variable="10").calls[4:] == [canary, ROLLOUT.replace("CANARY= ", ""), SMOKE, STATUS]


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        ({"version": "1.1.0", "answers": "differ"}, "differ"),
        ({"version": "1.0.0", "answers": "differ"}, ""),  # of another version: nobody has accepted this one's answers
        ({"version": "1.1.0"}, ""),
    ],
)
def test_answers_that_a_merged_report_shows_to_differ_are_accepted(tmp_path, record, answers):
    tmp_path.joinpath("data").mkdir()
    tmp_path.joinpath("data/retrained.json").write_text(json.dumps(record))
    canary = ROLLOUT.replace("CANARY=", "CANARY=10").replace("ANSWERS=", f"ANSWERS={answers}")
    assert merged(tmp_path, variable="10").calls[4:6] == [canary, canary.replace("CANARY=10 ", "")]


def test_answers_can_be_accepted_by_hand(tmp_path):
    assert ROLLOUT.replace("ANSWERS=", "ANSWERS=unjudged") in release(tmp_path, answers="unjudged").calls


def test_a_canary_that_is_not_promoted_by_hand_stays_one(tmp_path):
    assert release(tmp_path, canary="10", variable="20").calls[4:] == [ROLLOUT.replace("CANARY=", "CANARY=10"), SMOKE, STATUS]


DRIFT, RETRAIN, PROPOSE = (("retrain.yml", job) for job in ("drift", "train", "propose"))
AWS = """#!/bin/bash
echo "aws $*" >> "$CALLS"
[ "$1" != cloudformation ] || echo models
[ "$2" != ls ] || printf '%s' "$LISTED"
"""
CHANGES = """#!/bin/bash
echo "make $*" >> "$CALLS"
[ "$1" = retrain ] || exit 0
echo "  - version: 1.1.0" > dvc.yaml
printf '{\\n  "data": "0123456789abcdef",\\n  "at": "now"\\n}\\n' > data/retrained.json
mkdir -p build/retrain
echo "# Retraining of today" > build/retrain/report.md
"""


def repository(folder):
    """A git repository with a dvc.yaml and no more."""
    (folder / "data").mkdir()
    (folder / "dvc.yaml").write_text("  - version: 1.0.0\n")
    (folder / "dvc.lock").write_text("{}\n")
    (folder / "data/.gitignore").write_text("/*/\n")
    for command in ("init -q -b main", "add -A", "-c user.name=t -c user.email=t@example.org commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True, timeout=LIMIT_S)


def retrained(tmp_path, monkeypatch, make):
    repository(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/aws").write_text(AWS)
    (tmp_path / "bin/aws").chmod(0o755)
    monkeypatch.setattr("tests.project.test_jobs.MAKE", make)
    return Played(RETRAIN, tmp_path, **{"vars.MLFLOW_TRACKING_URI": ""})


def test_a_retraining_leaves_its_change_as_a_patch(tmp_path, monkeypatch):
    played = retrained(tmp_path, monkeypatch, CHANGES)
    assert not played.failed, played.printed
    assert played.calls[0] == "make .venv/installed-train"
    assert played.calls[1].startswith("aws cloudformation describe-stacks --stack-name seefood-storage ")
    only = "--exclude * --include labels.csv --include */photos/*"
    sync = f"aws s3 sync --only-show-errors {only} s3://models/reviewed collected"
    assert played.calls[2:] == [sync, "aws s3 ls s3://models/captured/", "make retrain PHOTOS="]
    assert played.outputs["changed"] == {"changed": "true"}
    patch = (tmp_path / "build/retrain/change.patch").read_text()
    assert "+  - version: 1.1.0" in patch
    assert "+++ b/data/retrained.json" in patch


def test_versions_are_compared_on_captured_photos_where_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.project.test_jobs.AWS", AWS.replace("$LISTED", "PRE 2026/\n"))
    played = retrained(tmp_path, monkeypatch, CHANGES)
    assert played.calls[-1] == "make retrain PHOTOS=s3://models/captured/"


GH = """#!/bin/bash
echo "gh $1 $2" >> "$CALLS"
[ "$2" != list ] || { echo "gh ${*:3:4}" >> "$CALLS"; printf '%s' "$PULLS"; }
"""
GIT = """#!/bin/bash
[ "$1" = push ] || exec /usr/bin/git "$@"
echo "git push ${*: -1}" >> "$CALLS"
"""


@pytest.mark.parametrize("pulls", ["", "https://example.org/pull/7 (OPEN)", "https://example.org/pull/7 (CLOSED)"])
def test_the_same_photos_get_one_pull_request(tmp_path, monkeypatch, pulls):
    retrained(tmp_path, monkeypatch, CHANGES)
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=tmp_path, check=True, timeout=LIMIT_S)
    (tmp_path / "data/retrained.json").unlink(missing_ok=True)
    (tmp_path / "calls").unlink()
    shutil.rmtree(tmp_path / "scripts")
    for name, text in {"gh": GH.replace("$PULLS", pulls), "git": GIT}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    played = Played(PROPOSE, tmp_path, **{"github.token": "t", "github.repository": "org/repo"})
    assert not played.failed, played.printed
    asked = ["gh pr list", "gh --head retrain-0123456789ab --state all"]
    opened = ["git push HEAD:refs/heads/retrain-0123456789ab", "gh pr create"]
    assert played.calls == (asked if pulls else asked + opened)
    assert ("these photos have a pull request: https://example.org/pull/7" in played.printed) is bool(pulls)


@pytest.mark.parametrize(
    ("before", "is_new"),
    [
        ("  - name: flowers\n  - version: 1.1.0 # the same\n", False),
        ("  - name: flowers\n  - version: 1.0.0\n", True),
        ("  - name: other\n  - version: 1.1.0\n", True),
        (None, True),
    ],
)
def test_a_changed_lock_without_a_new_version_releases_nothing(tmp_path, before, is_new):
    repository(tmp_path)
    commit = "0" * 40
    if before is not None:
        (tmp_path / "dvc.yaml").write_text(before)
        for command in ("add -A", "-c user.name=t -c user.email=t@example.org commit -qm before"):
            subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, timeout=LIMIT_S)
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()
    (tmp_path / "dvc.yaml").write_text("vars:\n  - name: flowers # a comment\n  - data: data/food\n  - version: 1.1.0\n")
    played = Played(("model-release.yml", "new"), tmp_path, **{"github.event.before": commit})
    assert not played.failed, played.printed
    assert played.outputs["new"] == ({} if is_new else {"is_new": "false"})
    assert ("nothing to release" in played.printed) is not is_new
    condition = " ".join(job_of(RELEASE)["if"].split())
    assert condition.startswith("!cancelled() && needs.new.result != 'failure' && needs.new.outputs.is_new != 'false' && ")


def test_a_retraining_with_nothing_new_proposes_nothing(tmp_path, monkeypatch):
    played = retrained(tmp_path, monkeypatch, MAKE)
    assert not played.failed, played.printed
    assert played.outputs["changed"] == {}
    assert job_of(PROPOSE)["if"] == "!cancelled() && needs.train.outputs.changed == 'true'"


@pytest.mark.parametrize(("status", "outputs", "fails"), [(0, {}, False), (3, {"drifted": "true"}, False), (1, {}, True)])
def test_a_day_with_drift_retrains_and_one_that_cannot_be_asked_fails(tmp_path, monkeypatch, status, outputs, fails):
    drift = f'if [ "$2" = scripts.monitoring.drift ]; then echo "drift ${{*:3}}" >> "$CALLS"; exit {status}; fi\n'
    monkeypatch.setattr("tests.project.test_jobs.PYTHON", PYTHON.replace("\n", f"\n{drift}", 1))
    played = Played(DRIFT, tmp_path)
    assert played.calls == ["make .venv/installed-cloud", "drift --release s3://models/release.json"]
    assert (played.failed, played.outputs["drift"]) == (fails, outputs)
    # the same line in both places
    daily = re.fullmatch(r"github.event.schedule == '(.*)' && vars.AWS_DEPLOY_ROLE != ''", job_of(DRIFT)["if"])
    assert daily
    assert daily[1] in [one["cron"] for one in WORKFLOWS["retrain.yml"]["on"]["schedule"]]
    condition = " ".join(job_of(RETRAIN)["if"].split())
    assert condition.endswith("(needs.drift.result == 'skipped' || needs.drift.outputs.drifted == 'true')")
    assert job_of(RETRAIN)["needs"] == "drift"


@pytest.mark.parametrize(
    ("fails", "then"),
    [
        ("smoke", [ROLLOUT, SMOKE, "make rollback RELEASE=s3://models/release.json", STATUS]),
        ("rollout", [ROLLOUT, STATUS]),  # it has restored the release before by itself
        ("inspect", []),
    ],
)
def test_the_release_before_comes_back(tmp_path, fails, then):
    played = release(tmp_path, fails)
    assert played.calls[4:] == then
    assert played.failed


@pytest.mark.parametrize(
    "inputs",
    [
        {"version": "1.1"},
        {"version": "1.1.0; rm -rf /"},
        {"version": "1.1.0\n$(rm -rf /)"},
        {"model": ""},
        {"model": "../flowers"},
        {"model": "flowers; rm -rf /"},
        {"canary": "100"},
        {"canary": "$(shell id)"},
        {"bake": "1801"},
        {"bake": ""},
        {"bake": "0x1"},
        {"answers": "differ; rm -rf /"},
    ],
    ids=str,
)
def test_inputs_that_cannot_be_used_are_refused_before_anything_is_done(tmp_path, inputs):
    played = release(tmp_path, **inputs)
    assert played.calls == []
    assert "::error::" in played.printed


def test_make_packs_what_the_pipeline_exported_without_exporting_again(tmp_path):
    (tmp_path / "program.json").touch()
    command = ["make", "-n", "archive", "VERSION=9.9.9", f"EXPORTED={tmp_path}", f"RUN={tmp_path}/none"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"scripts.archive.build --version='9.9.9' +-- '{tmp_path}'", printed)
    assert "training.export" not in printed
