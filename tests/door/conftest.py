import pytest

from tests.conftest import SHARED, picture_bytes


@pytest.fixture(scope="session")
def server(starter_server):
    """The starter behind the door."""
    return starter_server


@pytest.fixture(scope="module")
def photo():
    """A dish, or a drawn picture where the real photos are missing."""
    dishes = sorted((SHARED / "data" / "food10" / "bibimbap").glob("*.jpg"))
    return dishes[0].read_bytes() if dishes else picture_bytes(1)
