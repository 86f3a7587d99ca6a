"""Fixtures of this room: the starter's archive, the command in a process of its own, an S3 server."""

import shutil
import subprocess
import sys

import pytest

from scripts.archive.build import build
from scripts.predict import bucket, server
from scripts.predict.photo import LocalPhoto
from tests.conftest import ROOT, picture_bytes
from tests.ecs.scripted_aws import moto_server, outside


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A model store with the starter: the archive that make test has built, if it has."""
    folder, built = tmp_path_factory.mktemp("model_store"), ROOT / "model_store" / "seefood-0.5.0.mar"
    if built.exists():
        shutil.copy(built, folder)
    else:
        build(ROOT / "model_store" / "starter", "0.5.0", folder)
    return folder


@pytest.fixture
def command(store):
    """The words of `make predict`."""
    return [sys.executable, "-m", "scripts.predict.predict", "--model-store", str(store)]


@pytest.fixture
def predict(command):
    """Runs the command to its end."""

    def run(*arguments, **options):
        return subprocess.run([*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, **options)

    return run


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder with ten small drawn photos."""
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(picture_bytes(number, (64, 48)))
    return folder


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A hundred files that a server by script takes for photos; it is asked again soon."""
    monkeypatch.setattr(server, "PAUSE_S", 0.01)
    paths = [tmp_path / "photos" / f"{number}.jpg" for number in range(100)]
    (tmp_path / "photos").mkdir()
    for path in paths:
        path.write_text(path.name)
    return [LocalPhoto(path) for path in paths]


@pytest.fixture(scope="module")
def s3():
    """A client of moto's server, to which all calls go, with an empty bucket `photos`."""
    with moto_server("us-east-1"):
        bucket.client.cache_clear()
        client = outside("s3")
        client.create_bucket(Bucket="photos", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield client
    bucket.client.cache_clear()
