import shutil

import pytest

from tests.conftest import picture_bytes


@pytest.fixture(scope="module")
def model_store(packed, tmp_path_factory):
    return shutil.copytree(packed, tmp_path_factory.mktemp("model_store"), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def photo():
    return picture_bytes(1)
