from pathlib import Path

import pytest

from tests.conftest import SHARED, picture_bytes


@pytest.fixture(scope="session")
def server(starter_server):
    """The starter behind the door, which serves the page."""
    return starter_server


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    """A dish, or a drawn picture where the real photos are missing."""
    dishes = sorted((SHARED / "data" / "food10" / "bibimbap").glob("*.jpg"))
    if dishes:
        return dishes[0]
    file = tmp_path_factory.mktemp("photo") / "drawn.jpg"
    file.write_bytes(picture_bytes(1))
    return file
