import pytest

from scripts.archive.build import build
from tests.conftest import ROOT, SHARED, free_port, picture_bytes
from tests.serving.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The starter behind the door."""
    folder = tmp_path_factory.mktemp("model_store")
    build(ROOT / "model_store" / "starter", "0.2.0", folder)
    server = Server(folder, free_port()).wait_ready()
    yield server
    server.end()


@pytest.fixture(scope="module")
def photo():
    """A dish, or a drawn picture where the real photos are missing."""
    dishes = sorted((SHARED / "data" / "food10" / "bibimbap").glob("*.jpg"))
    return dishes[0].read_bytes() if dishes else picture_bytes(1)
