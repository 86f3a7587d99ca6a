"""The page in Firefox: what another engine may do in another way. Needs Debian's firefox-esr (or FIREFOX=path)."""

import base64

import pytest

from tests.conftest import picture_bytes
from tests.web.firefox import FIREFOX, Firefox, firefox

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not FIREFOX, reason="there is no Firefox: apt-get install firefox-esr"),
]


class Page:
    """The page in a window of Firefox."""

    def __init__(self, window: Firefox, port: int) -> None:
        self.window = window
        window.ask("Navigate", url=f"http://127.0.0.1:{port}/")

    def choose(self, file: object) -> None:
        field = self.window.find("#choose label:not(#camera) input[type=file]")
        self.window.ask("ElementSendKeys", id=field, text=str(file))

    def says(self, words: str) -> None:
        """Wait until the live region says this."""
        self.window.wait("return document.getElementById('status').textContent.includes(arguments[0])", words)

    def answers(self) -> list[str]:
        labels = "Array.from(document.querySelectorAll('#answers li span:first-child'), found => found.textContent)"
        return list(self.window.wait(f"const labels = {labels}; return labels.length ? labels : null"))

    def picture(self) -> tuple[list[int], bytes]:
        """(width and height of the canvas, what it shows as a PNG)."""
        size, shown = self.window.run(
            "const shown = document.getElementById('preview'); return [[shown.width, shown.height], shown.toDataURL()]"
        )
        return size, base64.b64decode(shown.partition(",")[2])


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with firefox(tmp_path_factory.mktemp("firefox"), languages="de-AT, en") as window:
        yield window


@pytest.fixture
def page(window, server):
    return Page(window, server.port)


def test_photo_is_answered_in_german_and_its_heat_map_shown(page, photo):
    page.choose(photo)
    assert len(page.answers()) == 5
    assert page.window.run("return document.getElementById('made').textContent").startswith("Antwort von seefood 0.5.0 ")
    plain = page.picture()
    page.window.ask("ElementClick", id=page.window.find("#heat"))
    page.window.wait("return document.getElementById('heat').ariaPressed === 'true'")
    assert page.picture()[0] == plain[0]
    assert page.picture()[1] != plain[1]


def test_large_photo_is_sent_small(page, tmp_path):
    large = tmp_path / "large.jpg"
    large.write_bytes(picture_bytes(1, size=(6400, 4800)))
    page.choose(large)
    assert len(page.answers()) == 5
    assert page.picture()[0] == [1024, 768]


def test_picture_that_only_the_server_can_read_is_sent_as_it_is(page, tmp_path):
    file = tmp_path / "a.tiff"
    file.write_bytes(picture_bytes(1, image_format="TIFF"))
    page.choose(file)
    assert len(page.answers()) == 5


def test_text_file_is_said_to_be_no_picture(page, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("this is no picture")
    page.choose(file)
    page.says("Diese Datei ist kein Bild")
