"""The workflows of .github: what they may do, and whom AWS trusts. What their jobs do: tests/project/test_jobs.py."""

import copy
import json
import re
import tomllib

import pytest
import yaml

from scripts.ecs.stacks import read_template
from scripts.settings import ports_of
from tests.conftest import ROOT

FOLDER = ROOT / ".github/workflows"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yml"))}
# BaseLoader: `on` is a word, and no version a number
WORKFLOWS = {name: yaml.load(text, Loader=yaml.BaseLoader) for name, text in TEXTS.items()}
JOBS = [(name, job) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"]]
# the most that each job may do with GitHub's own token
PERMISSIONS = {
    ("pull-request.yml", "test"): {"contents": "read"},
    ("pull-request.yml", "workflows"): {"contents": "read"},
    ("pull-request.yml", "container"): {"contents": "read"},
    ("pull-request.yml", "preflight"): {"contents": "read"},
    ("main.yml", "checks"): {"contents": "read"},
    ("main.yml", "image"): {"contents": "read", "id-token": "write", "attestations": "write"},
    ("main.yml", "deploy"): {"contents": "read", "id-token": "write"},
    ("audit.yml", "audit"): {"contents": "read"},
    ("nightly.yml", "slow"): {"contents": "read"},
    ("model-release.yml", "new"): {"contents": "read"},
    ("model-release.yml", "release"): {"contents": "read", "id-token": "write"},
    ("retrain.yml", "drift"): {"contents": "read", "id-token": "write"},
    ("retrain.yml", "train"): {"contents": "read", "id-token": "write"},
    ("retrain.yml", "propose"): {"contents": "write", "pull-requests": "write"},
}
RETRAINS = ("retrain.yml", "train")  # by a role and an environment of its own
TO_AWS = [where for where in JOBS if "id-token" in PERMISSIONS[where]]


def job_of(where):
    return WORKFLOWS[where[0]]["jobs"][where[1]]


def steps_of(where):
    return job_of(where).get("steps", [])


def test_workflows_start_when_they_should():
    started_by = {name: set(workflow["on"]) for name, workflow in WORKFLOWS.items()}
    # no pull_request_target, no workflow_run: nothing of a fork runs with rights of this repository
    assert started_by == {
        "pull-request.yml": {"pull_request", "workflow_call"},
        "main.yml": {"push"},
        "model-release.yml": {"push", "workflow_dispatch"},
        "retrain.yml": {"schedule", "repository_dispatch", "workflow_dispatch"},
        "audit.yml": {"schedule", "workflow_dispatch"},
        "nightly.yml": {"schedule", "workflow_dispatch"},
    }
    assert WORKFLOWS["main.yml"]["on"]["push"] == {"branches": ["main"]}
    # what a retraining that is no better leaves as it is
    assert WORKFLOWS["model-release.yml"]["on"]["push"] == {"branches": ["main"], "paths": ["dvc.lock"]}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_with_their_version(name):
    used = re.findall(r"uses: (.*)", TEXTS[name])
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/[\w-]+\.yml( #.*)?", action), action


def test_one_action_is_the_same_commit_everywhere():
    pins = {pin.split(" #")[0].split("@")[0]: set() for text in TEXTS.values() for pin in re.findall(r"uses: ([\w/-]+@.*)", text)}
    for text in TEXTS.values():
        for action, commit in re.findall(r"uses: ([\w/-]+)@(.*)", text):
            pins[action].add(commit)
    assert all(len(commits) == 1 for commits in pins.values()), pins


@pytest.mark.parametrize("where", JOBS, ids=str)
def test_jobs_have_least_permissions_and_a_time_limit(where):
    assert WORKFLOWS[where[0]]["permissions"] == {}
    assert job_of(where)["permissions"] == PERMISSIONS[where]
    if "uses" not in job_of(where):  # there, each of the called jobs has its own
        assert 1 <= int(job_of(where)["timeout-minutes"]) <= 90
        assert job_of(where)["runs-on"] == "ubuntu-24.04"


@pytest.mark.parametrize("where", JOBS, ids=str)
def test_no_secret_is_used_and_scripts_are_text_alone(where):
    assert "secrets" not in TEXTS[where[0]]
    for step in steps_of(where):
        assert "${{" not in step.get("run", ""), step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize("where", TO_AWS, ids=str)
def test_what_may_deploy_restores_no_cache_and_installs_before_it_has_credentials(where):
    used = [step.get("uses", "").split("@")[0] or step["run"] for step in steps_of(where)]
    assert "actions/cache" not in used
    credentials = used.index("aws-actions/configure-aws-credentials")
    assert any(step.startswith("make .venv/installed-") for step in used[:credentials])
    given = steps_of(where)[credentials]["with"]
    name = "Retrain" if where == RETRAINS else "Deploy"
    assert given["role-to-assume"] == f"${{{{ vars.AWS_{name.upper()}_ROLE }}}}"
    assert given["aws-region"] == "${{ steps.deployment.outputs.region }}"
    # the credentials outlive the job, and the role lets them
    seconds = int(given.get("role-duration-seconds", 3600))
    role = read_template("identity")["Resources"][f"{name}Role"]["Properties"]
    assert 60 * int(job_of(where)["timeout-minutes"]) <= seconds <= role["MaxSessionDuration"]


def test_deployments_and_releases_wait_for_each_other_and_none_is_cancelled():
    for where in [("main.yml", "deploy"), ("model-release.yml", "release")]:
        assert job_of(where)["concurrency"] == {"group": "production", "cancel-in-progress": "false", "queue": "max"}


def test_nothing_is_made_or_deployed_that_was_not_checked():
    jobs = WORKFLOWS["main.yml"]["jobs"]
    assert jobs["checks"]["uses"] == "./.github/workflows/pull-request.yml"
    assert (jobs["image"]["needs"], jobs["deploy"]["needs"]) == ("checks", "image")


def test_every_make_target_of_the_workflows_exists():
    targets = set(re.findall(r"^([\w./-]+)(?: [\w./-]+)*:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        argument
        for where in JOBS
        for step in steps_of(where)
        for arguments in re.findall(r"\bmake ([^|;&\n]+)", step.get("run", ""))
        for argument in arguments.split()
        if "=" not in argument
    }
    assert {"test", "container-test", "preflight", "image", "deploy", "smoke", "pull", "archive", "rollout", "rollback"} <= named
    assert named <= targets, named - targets


def test_jobs_that_install_different_things_have_different_caches():
    keys = [step["with"]["key"] for where in JOBS for step in steps_of(where) if "actions/cache@" in step.get("uses", "")]
    assert len(keys) == len(set(keys)) == 3
    # neither do Pythons install the same
    assert [key for key in keys if "matrix.python" in key] == [
        "packages-${{ runner.os }}-test-${{ matrix.python }}-${{ hashFiles('uv.lock') }}"
    ]


def test_pythons_are_those_that_the_project_supports():
    tested = WORKFLOWS["pull-request.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    minors = [int(version.removeprefix("3.")) for version in tested]
    assert project["requires-python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))
    others = {
        step["with"]["python-version"] for where in JOBS for step in steps_of(where) if "setup-python" in step.get("uses", "")
    }
    assert others - {"${{ matrix.python }}"} <= set(tested)


# --- whom AWS trusts ---


AUDIENCE, CLAIM = (f"token.actions.githubusercontent.com:{name}" for name in ("aud", "sub"))


def disagreements(jobs, statement, subject):
    """Why AWS would not trust these jobs {name: job}, or would trust others: GitHub's claim beside the trust policy."""
    problems = []
    if statement["Condition"] != {"StringEquals": {AUDIENCE: "sts.amazonaws.com", CLAIM: {"Ref": "GitHubSubject"}}}:
        problems.append(f"the trust policy's condition is {statement['Condition']}")
    owner = r"[A-Za-z0-9_.-]+"
    parts = re.fullmatch(rf"repo:{owner}(@\d+)?/{owner}(@\d+)?:(.+)", subject)
    if not parts or bool(parts[1]) != bool(parts[2]):
        return [*problems, f"{subject} is no subject of one repository"]
    for name, job in jobs.items():
        to_aws = any("configure-aws-credentials" in step.get("uses", "") for step in job.get("steps", []))
        if to_aws and job["permissions"].get("id-token") != "write":
            problems.append(f"{name} gets no token")
        environment = job.get("environment")
        environment = environment["name"] if isinstance(environment, dict) else environment
        claim = f"environment:{environment}" if environment else "ref:refs/heads/main"
        if to_aws and parts[3] != claim:
            problems.append(f"{name} says {claim}, AWS trusts {parts[3]}")
    return problems


def trust():
    """The statement by which AWS trusts GitHub."""
    role = read_template("identity")["Resources"]["DeployRole"]["Properties"]["AssumeRolePolicyDocument"]
    (statement,) = role["Statement"]
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    return statement


def subjects():
    """Those of the deployments, and the examples in the template and in comments."""
    deployments = sorted((ROOT / "scripts/ecs/deployments").glob("*.yaml"))
    given = [yaml.safe_load(path.read_text(encoding="utf-8"))["parameters"].get("GitHubSubject") for path in deployments]
    text = "".join(path.read_text(encoding="utf-8") for path in [*deployments, ROOT / "scripts/ecs/templates/identity.yaml"])
    examples = set(re.findall(r"\brepo:[^\s/]+/[^\s*:]+:[^\s,;]+", text))
    assert len(examples) >= 2
    return [one.replace("ORGID", "1").replace("REPOID", "2") for one in [*filter(None, given), *examples]]


DEPLOYING = {" ".join(where): job_of(where) for where in JOBS if where != RETRAINS}


def test_aws_trusts_the_jobs_that_deploy():
    assert sum("id-token" in job["permissions"] for job in DEPLOYING.values()) == 4
    for subject in subjects():
        assert disagreements(DEPLOYING, trust(), subject) == []


def test_the_job_that_decodes_strangers_photos_cannot_become_the_deploy_role():
    job = job_of(RETRAINS)
    assert (job["environment"], job["permissions"]) == ("retrain", {"contents": "read", "id-token": "write"})
    for subject in subjects():
        found = disagreements({"train": job}, trust(), subject)
        assert found == [f"train says environment:retrain, AWS trusts {subject[subject.index('environment:') :]}"]


SUBJECT = "repo:ORG/REPO:environment:production"


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("repo:ORG/REPO:environment:staging", "says environment:production, AWS trusts environment:staging"),
        ("repo:ORG/REPO:ref:refs/heads/main", "says environment:production"),
        ("repo:ORG/REPO:pull_request", "says environment:production"),
        ("repo:ORG/REPO:*", "AWS trusts *"),
        ("repo:ORG/*:environment:production", "no subject of one repository"),
        ("repo:ORG@1/REPO:environment:production", "no subject of one repository"),
        ("ORG/REPO:environment:production", "no subject of one repository"),
    ],
)
def test_another_subject_is_found(subject, reason):
    assert any(reason in problem for problem in disagreements(DEPLOYING, trust(), subject))


def _changed(path, value):
    jobs = copy.deepcopy(DEPLOYING)
    job = jobs["main.yml deploy"]
    for key in path[:-1]:
        job = job[key]
    if value is None:
        del job[path[-1]]
    else:
        job[path[-1]] = value
    return jobs


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["environment"], None, "main.yml deploy says ref:refs/heads/main"),
        (["environment"], "Production", "main.yml deploy says environment:Production"),
        (["environment"], {"name": "staging"}, "main.yml deploy says environment:staging"),
        (["permissions", "id-token"], None, "main.yml deploy gets no token"),
    ],
)
def test_a_job_that_aws_would_refuse_is_found(path, value, reason):
    assert any(reason in problem for problem in disagreements(_changed(path, value), trust(), SUBJECT))


@pytest.mark.parametrize("fault", ["StringLike", "no audience", "another parameter", "a pattern"])
def test_a_trust_policy_that_trusts_more_is_found(fault):
    statement = copy.deepcopy(trust())
    condition = statement["Condition"]
    if fault == "StringLike":
        condition["StringLike"] = condition.pop("StringEquals")
    elif fault == "no audience":
        del condition["StringEquals"][AUDIENCE]
    else:
        condition["StringEquals"][CLAIM] = {"Ref": "Name"} if fault != "a pattern" else "repo:*"
    assert any("the trust policy's condition" in problem for problem in disagreements(DEPLOYING, statement, SUBJECT))


# --- the devcontainer ---


def test_devcontainer_opens_on_a_stage_of_the_dockerfile_and_its_user():
    devcontainer = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    dockerfile = (ROOT / ".devcontainer" / devcontainer["build"]["dockerfile"]).resolve()
    assert dockerfile == ROOT / "Dockerfile"
    stages = re.split(r"^FROM ", dockerfile.read_text(), flags=re.MULTILINE)
    (stage,) = [text for text in stages if re.match(rf"\S+ AS {devcontainer['build']['target']}\n", text)]
    user = devcontainer["remoteUser"]
    assert user != "root"
    assert re.search(rf"useradd .* {user}$", stage, re.MULTILINE)
    assert re.search(r"\bmake\b", stage)
    assert devcontainer["postCreateCommand"] == "make setup"
    assert set(devcontainer["forwardPorts"]) <= set(ports_of(8080).values())
