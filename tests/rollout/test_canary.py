"""A canary on ECS: tasks with their role's policy alone, and a rollout with that of GitHub Actions, on moto's S3 with IAM enforced.

The tasks are the serving side's DesiredState without a TorchServe: what they would serve is what they report.
"""

import contextlib
import threading
import time

import boto3
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.s3.models import s3_backends

from scripts.release.document import canaries, fingerprint, make, parse, write
from scripts.release.store import DeniedError
from scripts.rollout.guarded import Rollout, RolloutError
from scripts.rollout.plan import Candidate, Options, plan_start
from scripts.serving.desired import DesiredState
from scripts.serving.health import Health
from scripts.serving.instance import Instance
from scripts.serving.served_model import ServedModel
from scripts.settings import Settings
from scripts.steps import Steps
from tests.rollout.roles import BUCKET, enforced, enforcing
from tests.rollout.rolling import alike
from tests.waiting import until

SETTINGS = Settings(heartbeat_s=0.3, poll_s=0.1, bake_s=1, rollout_s=20, stale_s=10)
NAMES = [f"task-{letter}" for letter in "abcd"]
TASK_CALLS = {"GetObject", "ListObjectsV2", "PutObject"}


class Task:
    """A task that polls, counts requests at a rate, and reports, until the test ends."""

    def __init__(self, name, store, folder, requests=5, ignores=False):
        self.desired = DesiredState(name, store, folder, SETTINGS, Steps(True))
        self.requests, self.ignores, self.counts, self.over = requests, ignores, {}, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.wait(SETTINGS.poll_s):
            self.desired.poll()
            document, problem = self.desired.document, self.desired.problem
            if document is None:
                continue
            default = document["default"] if self.ignores else self.desired.default("seefood")
            self.counts[default] = self.counts.get(default, 0) + self.requests
            figures = {version: {"outcomes": {"answered": count}, "seconds": {}} for version, count in self.counts.items()}
            state = "reconciled" if problem is None else "failed" if problem.lasting else "reconciling"
            status = {
                "instance": self.desired.instance,
                "state": state,
                "since": time.time(),
                "why": problem.why if problem else "",
            }
            status |= {"release": fingerprint(document), "default": default, "versions": sorted(document["versions"])}
            status |= {"ready": True, "shadow": alike(document), "figures": figures, "worker_restarts": {}}
            self.desired.store.write_status(self.desired.instance, status)


def entry(version):
    return {"archive": f"seefood-{version}.mar", "sha256": "0" * 64}


@pytest.fixture
def bucket():
    with enforced() as bucket:
        boto3.client("s3").put_object(
            Bucket=BUCKET, Key="release.json", Body=write(make({"1.0.0": entry("1.0.0")}, "1.0.0", "released", "a test")).encode()
        )
        yield bucket


@pytest.fixture
def play(bucket, tmp_path):
    """(default version of each task, the error or None, the present document, the tasks' calls) of a rollout with a canary."""

    def run(names=NAMES, canary=50, without="", **task):
        tasks, calls = [], []
        credentials = {role: bucket.credentials(role, without if role == "TaskRole" else "") for role in ("TaskRole", "DeployRole")}
        with enforcing(), contextlib.ExitStack() as stack:
            for name in names:
                store = bucket.store(credentials["TaskRole"], SETTINGS)
                store._client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
                tasks.append(Task(name, store, tmp_path, **task))
                stack.callback(tasks[-1].thread.join)
                stack.callback(tasks[-1].over.set)
            store = bucket.store(credentials["DeployRole"], SETTINGS)
            until(lambda: len(store.instances()) >= len(names))
            archive = tmp_path / "seefood-1.1.0.mar"
            archive.write_bytes(b"a model")
            error = None
            try:
                rollout = Rollout(store, SETTINGS, Steps(True))
                new = Candidate(archive, "seefood", "1.1.0", entry("1.1.0"))
                rollout.run(plan_start(store.address, rollout.released.before, rollout.instances, new, Options(canary=canary)))
            except (RolloutError, ValueError) as failure:
                error = str(failure)
            served = {status["instance"]: status["default"] for _, status in store.statuses()}
            document = parse(store.read()[0])
        return served, error, document, set(calls)

    return run


def test_half_of_the_tasks_serve_the_canary_and_none_reads_the_status_of_another(play):
    served, error, document, calls = play()
    assert error is None
    chosen = canaries(NAMES, 50)
    assert served == {name: "1.1.0" if name in chosen else "1.0.0" for name in NAMES}
    assert (document["stage"], document["canary"]) == ("canary", {"version": "1.1.0", "percent": 50})
    assert calls == TASK_CALLS


def test_tasks_that_may_not_list_the_bucket_fail_the_canary_and_name_the_permission(play):
    served, error, document, _ = play(without="s3:ListBucket")
    assert "the canaries cannot be chosen: s3://models/release.json: s3:ListBucket is denied" in error
    assert error.endswith("1.0.0 is served again")
    assert set(served.values()) == {"1.0.0"}
    assert (document["stage"], document["default"]) == ("released", "1.0.0")


@pytest.mark.slow
def test_canary_that_no_request_reached_is_undone(play):
    served, error, document, _ = play(requests=0)
    assert "the canary 1.1.0 got no requests in 1 s, so nothing is known about it" in error
    assert error.endswith("1.0.0 is served again")
    assert set(served.values()) == {"1.0.0"}
    assert "canary" not in document


@pytest.mark.slow
def test_canary_that_no_task_takes_is_undone(play, monkeypatch):
    monkeypatch.setitem(SETTINGS.__dict__, "rollout_s", 2)
    _, error, document, _ = play(ignores=True)
    assert "with 1.0.0 as its default, expected 1.1.0" in error
    assert "canary" not in document


def test_one_task_alone_has_no_canary(play):
    served, error, document, _ = play(["task-a"], 99)
    assert "one instance alone has no canary" in error
    assert document["stage"] == "released"
    assert served == {"task-a": "1.0.0"}


def test_task_that_may_not_fetch_archives_fails_with_the_permission(bucket, tmp_path):
    credentials = bucket.credentials("TaskRole", without="s3:GetObject")
    desired = DesiredState("task-a", bucket.store(credentials, SETTINGS), tmp_path, SETTINGS, Steps(True))
    instance = Instance(desired, tmp_path, Health(SETTINGS, Steps(True)), SETTINGS, Steps(True))
    model = ServedModel("seefood", instance.around)
    with enforcing():
        model._load("1.1.0", entry("1.1.0"))
    assert model.state == "failed"
    assert "s3:GetObject is denied" in model.problems["1.1.0"].why


def test_rollout_that_may_not_read_statuses_fails_at_once(bucket):
    credentials = bucket.credentials("DeployRole", without="s3:GetObject")
    boto3.client("s3").put_object(Bucket=BUCKET, Key="release.status/task-a.json", Body=b"{}")
    with enforcing(), pytest.raises(DeniedError, match="s3:GetObject is denied"):
        bucket.store(credentials, SETTINGS).statuses()


def test_a_thousand_tasks_are_one_request(bucket):
    for number in range(1000):  # past HTTP, which would take long
        s3_backends[ACCOUNT]["aws"].put_object(BUCKET, f"release.status/task-{number:04}.json", b"{}")
    credentials, calls = bucket.credentials("TaskRole"), []
    with enforcing():
        store = bucket.store(credentials, SETTINGS)
        store._client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
        assert [name for _, name in store.instances()] == [f"task-{number:04}" for number in range(1000)]
    assert calls == ["ListObjectsV2"]
