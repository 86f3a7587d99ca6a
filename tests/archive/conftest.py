"""Fixtures of this room: the tiny run's archive, and its content."""

import shutil
import zipfile

import pytest

from tests.conftest import modules_of_a_worker


@pytest.fixture(scope="session")
def archive(packed, tmp_path_factory):
    return shutil.copytree(packed, tmp_path_factory.mktemp("model_store"), dirs_exist_ok=True) / "seefood-1.0.0.mar"


@pytest.fixture
def unpacked(archive, tmp_path):
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    with modules_of_a_worker():
        yield tmp_path
