"""Three instances that follow one release document on S3 (moto's server): canary, promotion, a bad version, S3 away, rollback.

The instances have the rights of the template's task role and no others, the rollouts those of GitHub Actions.
"""

import subprocess
import sys
import time

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from scripts.release.address import open_store
from scripts.release.document import canaries
from tests.conftest import LIMIT_S, free_port, picture_bytes
from tests.rollout.roles import REGION, RELEASE, Enforced, enforcing
from tests.rollout.rolling import QUICK, Instance, Load, make_archives, reversion

pytestmark = [pytest.mark.server, pytest.mark.slow]
NAMES = ["task-a", "task-b", "task-c"]


def rights(roles, name):
    """A role's credentials, as environment variables."""
    return {key.upper(): value for key, value in roles.credentials(name).items()}


@pytest.fixture(scope="module")
def s3():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    httpx.post(f"http://{host}:{port}/moto-api/reset")  # what this process's earlier tests have left in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        # two cores serve three instances here, which load a version at the same time
        for name, value in {**QUICK, "SEEFOOD_POLL_S": "0.5", "SEEFOOD_STALE_S": "20", "SEEFOOD_CHECK_TIMEOUT_S": "10"}.items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        roles = Enforced()
        server.tasks_rights = rights(roles, "TaskRole")
        for name, value in rights(roles, "DeployRole").items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)  # it has the credentials of before
        with enforcing():
            yield server
    server.stop()


@pytest.fixture(scope="module")
def archives(exported, tmp_path_factory):
    archives = make_archives(exported, tmp_path_factory.mktemp("archives"), ["1.0.0", "1.1.0"])
    return archives | {"2.0.0": reversion(archives["1.0.0"], "2.0.0", archives["1.0.0"].parent, "raises")}


@pytest.fixture(scope="module")
def rollout(s3, archives):
    def run(*arguments):
        command = [sys.executable, "-m", "scripts.rollout.rollout", "--release", RELEASE]
        command += ["--model-store", str(archives["1.0.0"].parent), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def task(s3, name):
    """An instance with the task role's rights."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in s3.tasks_rights.items():
            patch.setenv(key, value)
        return Instance(RELEASE, free_port(), name)


@pytest.fixture(scope="module")
def fleet(s3, rollout):
    status, output = rollout("start", "1.0.0")  # the first release: no instance runs yet
    assert status == 0, output
    instances = [task(s3, name) for name in NAMES]
    try:
        for instance in instances:
            instance.wait_ready()
        for instance in instances:
            instance.wait_state("reconciled")
        yield instances
    finally:
        for instance in instances:
            instance.__exit__()


def served(fleet):
    return [httpx.post(instance.url, content=picture_bytes(1), timeout=LIMIT_S).json()["version"] for instance in fleet]


def test_canary_promotion_bad_version_and_rollback(fleet, rollout, archives):
    loads = [Load(instance.port, 1) for instance in fleet]
    assert served(fleet) == ["1.0.0"] * 3
    status, output = rollout("start", "1.1.0", "--canary", 33)
    assert status == 1
    assert "CANARY=34 is one" in output

    status, output = rollout("start", "1.1.0", "--canary", 34)
    assert status == 0, output
    (canary,) = canaries(NAMES, 34)
    assert served(fleet) == ["1.1.0" if name == canary else "1.0.0" for name in NAMES]
    status, output = rollout("status")
    assert "canary 1.1.0 for 34 %" in output
    assert output.count("reconciled") == 3

    status, output = rollout("start", "1.1.0")
    assert status == 0, output
    assert served(fleet) == ["1.1.0"] * 3
    assert all(instance.registered() == ["1.1.0"] for instance in fleet)

    status, output = rollout("start", "2.0.0")
    assert status == 1
    assert "no such luck" in output
    assert "1.1.0 is served again" in output
    assert served(fleet) == ["1.1.0"] * 3

    status, output = rollout("back")
    assert status == 0, output
    assert served(fleet) == ["1.0.0"] * 3
    for load in loads:
        load.stop()
        assert not load.failed
    status, output = rollout("history")
    stages = [line.split()[1] for line in output.splitlines()[1:]]
    assert stages == ["released", "released", "baking", "released", "baking", "canary", "released"]


def test_s3_that_is_away_stops_nobody_and_is_noticed_when_it_is_back(fleet, rollout, s3):
    port = s3.get_host_and_port()[1]
    s3.stop()
    time.sleep(1)
    fleet[0].wait_for(lambda: "cannot be reached" in fleet[0].output)
    assert served(fleet) == ["1.0.0"] * 3
    assert all(instance.ready for instance in fleet)
    again = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    again.start()
    try:
        status, output = rollout("start", "1.1.0")
        assert status == 0, output
        assert served(fleet) == ["1.1.0"] * 3
    finally:
        again.stop()


def test_instance_that_starts_anew_serves_what_the_document_says(fleet, s3):
    again = ThreadedMotoServer(ip_address="127.0.0.1", port=s3.get_host_and_port()[1])
    again.start()
    try:
        with task(s3, "task-d").wait_ready() as fourth:
            assert served([fourth]) == ["1.1.0"]
        assert [name for _, name in open_store(RELEASE).instances()] == NAMES
    finally:
        again.stop()
