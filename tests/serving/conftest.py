import pytest

from scripts.archive.build import build
from tests.conftest import picture_bytes


@pytest.fixture(scope="module")
def model_store(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model_store")
    build(exported, "1.0.0", folder)
    return folder


@pytest.fixture(scope="module")
def photo():
    return picture_bytes(1)
