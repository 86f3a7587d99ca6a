import pytest

from tests.conftest import SHARED, picture_bytes
from tests.serving.server import serving_starter


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The starter behind the door."""
    with serving_starter(tmp_path_factory.mktemp("model_store")) as server:
        yield server


@pytest.fixture(scope="module")
def photo():
    """A dish, or a drawn picture where the real photos are missing."""
    dishes = sorted((SHARED / "data" / "food10" / "bibimbap").glob("*.jpg"))
    return dishes[0].read_bytes() if dishes else picture_bytes(1)
