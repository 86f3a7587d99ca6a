"""Fixtures of this room: the tiny run's archive, and its content."""

import zipfile

import pytest

from scripts.archive.build import build
from tests.conftest import modules_of_a_worker


@pytest.fixture(scope="session")
def archive(exported, tmp_path_factory):
    return build(exported, "1.0.0", tmp_path_factory.mktemp("model_store"))


@pytest.fixture
def unpacked(archive, tmp_path):
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    with modules_of_a_worker():
        yield tmp_path
