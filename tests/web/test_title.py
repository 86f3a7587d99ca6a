"""What is written beside a photo, on the page, in Chromium and in Firefox: for a model that reads it, and for no other."""

import httpx
import pytest

from tests.chromium import needs_chromium
from tests.conftest import LIMIT_S, picture_bytes
from tests.web.firefox import FIREFOX, firefox
from tests.web.test_browser import Seen, shuts_nobody_out
from tests.web.test_firefox import Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.slow,
    # the last page of a browser that is closed
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FIELD, TITLE, ENTER = "#title input", "My ramen soup", "\ue007"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A picture of another class than TITLE names."""
    file = tmp_path_factory.mktemp("drawn") / "drawn.jpg"
    file.write_bytes(picture_bytes(0))
    return file


def answered(server, photo, title):
    """The labels that the server answers to a form, the most probable first."""
    request = {"files": {"image": photo.read_bytes()}, "data": {"text": title}}
    predictions = httpx.post(server.url, timeout=LIMIT_S, **request).json()["predictions"]
    return [prediction["label"].replace("_", " ") for prediction in predictions]


@pytest.fixture
def seen(browser, text_server):
    seen = Seen(browser, text_server.port)
    yield seen
    seen.context.close()


def lines(seen):
    seen.answers()
    return seen.page.locator("#answers li").all_inner_texts()


def write(seen, title):
    seen.page.fill(FIELD, title)
    seen.page.press(FIELD, "Enter")


def sent(seen):
    return sum("/predictions/" in address for address in seen.asked)


@needs_chromium
def test_title_is_sent_with_the_photo_and_changes_the_answer(seen, text_server, drawn):
    seen.choose(str(drawn))
    alone = lines(seen)
    shuts_nobody_out(seen)
    write(seen, TITLE)
    both = lines(seen)
    assert both != alone
    assert seen.answers() == answered(text_server, drawn, TITLE)
    # it stays for the next photo, and once it is taken out the photo counts alone
    write(seen, "")
    assert lines(seen) == alone
    assert sent(seen) == 3
    assert not seen.errors


@needs_chromium
def test_title_that_is_too_long_is_said_to_be_and_is_not_sent(seen, text_server, drawn):
    seen.choose(str(drawn))
    alone = lines(seen)
    write(seen, "x" * 501)
    seen.says("too long: at most 500 characters are read.")
    assert seen.page.input_value(FIELD) == "x" * 501  # to be made shorter, not cut without a word
    shuts_nobody_out(seen)
    assert sent(seen) == 1
    # the longest that is read, in letters that JavaScript counts as two
    write(seen, "🍜" * 500)
    assert seen.answers() == answered(text_server, drawn, "🍜" * 500)
    write(seen, "")
    assert lines(seen) == alone
    assert not seen.errors


@needs_chromium
def test_title_is_not_asked_for_by_a_model_that_reads_none(browser, server, drawn):
    seen = Seen(browser, server.port)
    seen.choose(str(drawn))
    seen.answers()
    assert not seen.page.is_visible(FIELD)
    seen.context.close()


@pytest.mark.skipif(not FIREFOX, reason="there is no Firefox: apt-get install firefox-esr")
def test_firefox_sends_a_title_and_says_that_one_is_too_long(text_server, drawn, tmp_path):
    with firefox(tmp_path, languages="de-AT, en") as window:
        page = Page(window, text_server.port)
        page.choose(drawn)
        page.answers()
        field = window.find(FIELD)
        window.ask("ElementSendKeys", id=field, text=TITLE + ENTER)
        assert page.answers() == answered(text_server, drawn, TITLE)
        window.ask("ElementSendKeys", id=field, text="x" * 500 + ENTER)
        page.says("zu lang: Höchstens 500 Zeichen werden gelesen.")
