from pathlib import Path

import pytest

from tests.chromium import CHROMIUM
from tests.conftest import SHARED, picture_bytes

# as root it has no sandbox; it asks nobody for anything of its own
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run")


@pytest.fixture(scope="module")
def browser():
    """Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


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
