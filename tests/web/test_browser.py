"""The page in a real browser, before a real server: what people see of an answer, and of whatever goes wrong.

Needs Debian's chromium (or CHROMIUM=path). axe-core, an engine that looks for what shuts people out, finds nothing.
"""

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from handler.captured import FEEDBACK, answer_of
from scripts.door.access.keys import new_key
from tests.chromium import needs_chromium
from tests.conftest import LIMIT_S, picture_bytes
from tests.door.own_door import STATE, door, sockets_of
from tests.serving.server import capturing_starter
from tests.waiting import until

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.slow,
    needs_chromium,
    # the last page of a browser that is closed
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
CHOOSE = "#choose label:not(#camera) input[type=file]"
MS = 1000 * LIMIT_S


class Seen:
    """A page, and what went by: errors in its console, and addresses that it asked."""

    def __init__(self, browser, port: int, **options: object) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-US", **options})
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.set_default_timeout(MS)
        self.port = port
        self.page.goto(f"http://127.0.0.1:{port}/")

    def choose(self, file: object) -> None:
        self.page.set_input_files(CHOOSE, file)

    def says(self, words: str) -> None:
        """Wait until the live region says this."""
        self.page.wait_for_function("words => document.getElementById('status').textContent.includes(words)", arg=words)

    def answers(self) -> list[str]:
        self.page.wait_for_selector("#answers li")
        return self.page.locator("#answers li span:first-child").all_inner_texts()

    def picture(self) -> str:
        return str(self.page.evaluate("document.getElementById('preview').toDataURL()"))


def shuts_nobody_out(seen: Seen) -> None:
    found = axe.Axe().run(seen.page)
    assert found.violations_count == 0, found.generate_report()


@pytest.fixture
def seen(browser, server) -> Iterator[Seen]:
    seen = Seen(browser, server.port)
    yield seen
    seen.context.close()


def expected(server, photo: Path) -> list[str]:
    predictions = httpx.post(server.url, content=photo.read_bytes(), timeout=LIMIT_S).json()["predictions"]
    return [prediction["label"].replace("_", " ") for prediction in predictions]


def test_photo_is_answered_with_its_five_classes_and_nothing_else_is_asked(seen, server, photo):
    seen.choose(str(photo))
    labels = seen.answers()
    assert (len(labels), labels[0]) == (5, expected(server, photo)[0])
    seen.says(labels[0])
    assert "seefood 0.5.0" in seen.page.inner_text("#made")
    assert all(address.startswith((f"http://127.0.0.1:{server.port}/", "blob:")) for address in seen.asked)
    assert not seen.errors


def test_heat_map_comes_and_goes_over_the_photo(seen, photo):
    seen.choose(str(photo))
    label = seen.answers()[0]
    plain = seen.picture()
    seen.page.click("#heat")
    seen.page.wait_for_selector("#heat[aria-pressed=true]")
    seen.says(f"“{label}” rests ")
    shuts_nobody_out(seen)
    assert seen.picture() != plain
    seen.page.click("#heat")
    seen.page.wait_for_selector("#heat[aria-pressed=false]")
    assert seen.picture() == plain


def test_text_file_is_said_to_be_no_picture_and_the_servers_words_are_there(seen, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("this is no picture")
    seen.choose(str(file))
    seen.says("This file is not a picture")
    shuts_nobody_out(seen)
    seen.page.click("#details summary")
    assert "supported format" in seen.page.inner_text("#details p")


def test_empty_file_is_not_sent(seen, tmp_path):
    file = tmp_path / "a.jpg"
    file.touch()
    seen.choose(str(file))
    seen.says("This file is empty.")
    assert not any("/predictions/" in address for address in seen.asked)


def received(port: int) -> float:
    """Bytes of bodies that the door has received: a browser's tools do not show those of a Blob."""
    metrics = httpx.get(f"http://127.0.0.1:{port + 1}/metrics", timeout=LIMIT_S).text
    return float(re.findall(r"^seefood_door_received_bytes_total (\S+)", metrics, re.MULTILINE)[0])


def test_photo_of_30_megapixels_is_sent_small(seen, tmp_path, photo):
    large = tmp_path / "large.jpg"
    Image.open(photo).convert("RGB").resize((6400, 4800)).save(large, quality=92)
    before = received(seen.port)
    seen.choose(str(large))
    seen.answers()
    assert 0 < received(seen.port) - before < 1_000_000 < large.stat().st_size
    assert seen.page.evaluate("[preview.width, preview.height]") == [1024, 768]


def test_photo_lies_upright(seen, tmp_path):
    picture = Image.new("RGB", (400, 200), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "turned.jpg", exif=exif)
    seen.choose(str(tmp_path / "turned.jpg"))
    seen.answers()
    assert seen.page.evaluate("[preview.width, preview.height]") == [200, 400]


@pytest.mark.parametrize(("name", "kind"), [("a.tiff", "image/tiff"), ("IMG_0001.HEIC", "image/heic")])
def test_picture_that_only_the_server_can_read_is_sent_as_it_is(seen, server, name, kind):
    file, picture = io.BytesIO(), Image.open(io.BytesIO(picture_bytes(1)))
    if kind == "image/heic":
        pytest.importorskip("pillow_heif").from_pillow(picture).save(file)
    else:
        picture.save(file, "TIFF")
    seen.choose({"name": name, "mimeType": kind, "buffer": file.getvalue()})
    answer = httpx.post(server.url, content=file.getvalue(), timeout=LIMIT_S).json()
    assert seen.answers() == [prediction["label"].replace("_", " ") for prediction in answer["predictions"]]
    assert seen.page.is_hidden("#preview")
    assert seen.page.is_hidden("#heat")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photo_may_be_dropped_or_pasted(seen, photo, way):
    seen.page.evaluate(
        """async ([way, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "a.jpg", { type: "image/jpeg" }));
            const event = way === "drop" ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true })
                : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
            document.body.dispatchEvent(event);
        }""",
        [way, list(photo.read_bytes())],
    )
    assert len(seen.answers()) == 5


def test_last_photos_are_there_again(seen, photo, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (300, 300), "green").save(other)
    seen.choose(str(photo))
    first, picture = seen.answers(), seen.picture()
    seen.choose(str(other))
    seen.page.wait_for_selector("#history li:nth-child(2)")
    seen.page.click("#history li:nth-child(2) button")
    assert (seen.answers(), seen.picture()) == (first, picture)
    assert seen.page.get_attribute("#history li:nth-child(2) button", "aria-current") == "true"
    for _ in range(12):
        seen.choose(str(other))
        seen.answers()
    assert seen.page.locator("#history li").count() == 10


def test_server_that_is_gone_and_one_that_is_offline(seen, photo):
    seen.page.route("**/predictions/*", lambda route: route.abort("connectionrefused"))
    seen.choose(str(photo))
    seen.says("The server does not answer.")
    seen.context.set_offline(True)
    seen.choose(str(photo))
    seen.says("You are offline.")


def test_page_opens_without_its_server_and_says_so(browser, server, photo):
    with door(sockets_of(server.port)) as own:
        own.tell(STATE)
        seen = Seen(browser, own.port)
        seen.page.evaluate("navigator.serviceWorker.ready")
    seen.page.reload()
    seen.says("The server does not answer.")
    seen.choose(str(photo))
    seen.says("The server does not answer.")
    seen.page.goto(f"http://127.0.0.1:{own.port}/?a=b")
    assert seen.page.title() == "SeeFood"
    kept = seen.page.evaluate("caches.open('page').then((kept) => kept.keys()).then((all) => all.map((one) => one.url))")
    assert not any("/predictions/" in address or "/v1/" in address for address in kept)
    seen.context.close()


def test_busy_server_is_asked_again(browser, server, photo):
    with door(sockets_of(server.port), upload_bytes=1) as busy:
        busy.tell(STATE)
        seen = Seen(browser, busy.port)
        seen.choose(str(photo))
        seen.says("The server is busy. Trying again in 2 s.")
        with seen.page.expect_request("**/predictions/*"):
            pass  # again
        seen.context.close()


def test_key_is_asked_for_and_used(browser, server, photo, tmp_path):
    key, line = new_key("kitchen")
    (tmp_path / "keys").write_text(line + "\n")
    with door(sockets_of(server.port), api_keys=tmp_path / "keys") as closed:
        closed.tell(STATE)
        seen = Seen(browser, closed.port)
        seen.says("This server needs a key.")
        shuts_nobody_out(seen)
        for wrong in ("a key that\u2019s none", "sf_wrong"):
            seen.page.fill("#key input", wrong)
            seen.page.keyboard.press("Enter")
            seen.says("This key is not valid.")
        seen.choose(str(photo))
        seen.page.wait_for_function("() => document.activeElement.type === 'password'")
        seen.page.fill("#key input", key)
        seen.page.keyboard.press("Enter")
        assert len(seen.answers()) == 5, "what was asked before is asked again"
        assert seen.page.is_hidden("#key")
        seen.context.close()


def test_photo_unlike_all_that_the_model_knows_is_said_to_be_so(seen, server, tmp_path):
    file = tmp_path / "noise.png"
    for sigma in (20, 60, 120):
        Image.effect_noise((300, 300), sigma).convert("RGB").save(file)
        if not httpx.post(server.url, content=file.read_bytes(), timeout=LIMIT_S).json()["sure"]:
            break
    else:
        pytest.skip("the starter is sure of all noise")
    seen.choose(str(file))
    seen.says("Not sure: this looks unlike everything the model knows.")
    assert len(seen.answers()) == 5
    shuts_nobody_out(seen)


def test_second_photo_ends_the_first(seen, photo, tmp_path):
    held = []
    seen.page.route("**/predictions/*", lambda route: held.append(route) if not held else route.continue_())
    seen.choose(str(photo))
    seen.page.wait_for_timeout(0)
    file = tmp_path / "a.txt"
    file.write_text("no picture")
    until(lambda: seen.page.wait_for_timeout(10) or held)
    seen.choose(str(file))
    seen.says("This file is not a picture")
    held[0].abort()
    seen.page.wait_for_timeout(100)
    assert "This file is not a picture" in seen.page.inner_text("#status")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 200, "body": "<html>log in to this network</html>"}, "The server does not answer."),
        ({"status": 502, "body": "<html>Bad Gateway</html>"}, "(status 502). Trying again in 2 s."),
        ({"status": 503, "headers": {"retry-after": "3600"}, "body": "{}"}, "The server is busy."),
        ({"status": 418, "body": '{"message": "I am a teapot"}'}, "(status 418)"),
    ],
)
def test_answers_that_are_not_the_servers_own(seen, photo, answer, words):
    seen.page.route("**/predictions/*", lambda route: route.fulfill(**answer))
    seen.choose(str(photo))
    seen.says(words)
    assert "undefined" not in seen.page.inner_text("main")


def test_one_of_several_models_is_chosen(browser, server, photo):
    with door(sockets_of(server.port)) as several:
        several.tell(STATE | {"models": STATE["models"] | {"zoo": {"default": "1", "versions": {"1": {}}}}})
        seen = Seen(browser, several.port)
        seen.choose(str(photo))
        seen.answers()
        assert seen.page.locator("#models option").all_inner_texts() == ["seefood", "zoo"]
        seen.page.click("#heat")
        seen.page.wait_for_selector("#heat[aria-pressed=true]")
        with seen.page.expect_request("**/predictions/zoo"):
            seen.page.select_option("#models select", "zoo")
        seen.context.close()


def test_page_speaks_german_to_those_who_do(browser, server, photo):
    seen = Seen(browser, server.port, locale="de-AT")
    seen.choose(str(photo))
    seen.answers()
    assert seen.page.get_attribute("html", "lang") == "de"
    assert seen.page.inner_text("#made").startswith("Antwort von ")
    seen.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280, 3840])
def test_nothing_shuts_people_out_and_nothing_sticks_out(browser, server, photo, scheme, width):
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "has_touch": width == 320}
    seen = Seen(browser, server.port, **options)
    for _ in range(2):
        seen.choose(str(photo))
        seen.answers()
    seen.page.wait_for_selector("#history li")
    shuts_nobody_out(seen)
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert seen.page.is_visible("#camera") == (width == 320)
    seen.context.close()


def test_keyboard_alone_is_enough(seen, photo):
    seen.choose(str(photo))
    seen.answers()
    seen.page.focus("#heat")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("#heat[aria-pressed=true]")
    seen.page.keyboard.press("Shift+Tab")
    assert seen.page.evaluate("document.activeElement.type") == "file"


# --- "Wrong? It is ..." ---


@pytest.fixture(scope="module")
def capturing(tmp_path_factory):
    with capturing_starter(tmp_path_factory) as found:
        yield found


class Answered(Seen):
    """A page with a photo's answer, whose id is `id`."""

    def __init__(self, browser, capturing, photo: object, **options: object) -> None:
        server, self.folder = capturing
        super().__init__(browser, server.port, **options)
        with self.page.expect_response("**/predictions/*") as response:
            self.choose(photo)
        self.id = response.value.headers["x-request-id"]
        self.labels = self.answers()

    def open(self) -> None:
        """Open the classes to choose from, and wait for those of the version."""
        with self.page.expect_response("**/v2/models/**"):
            self.page.click("#wrong")
        self.page.wait_for_function("() => document.querySelectorAll('#labels li').length > 5")

    def thanked(self, words: str) -> None:
        self.page.wait_for_function("words => document.getElementById('thanks').textContent.includes(words)", arg=words)

    def kept(self) -> object:
        """The label that is kept for this answer, in a file for the server's user alone."""
        answer = answer_of(self.folder, self.id)
        assert answer is not None
        path = answer.with_suffix(FEEDBACK)
        assert path.stat().st_mode & 0o777 == 0o600
        return json.loads(path.read_text())["label"]


@pytest.fixture
def answered(browser, capturing, photo) -> Iterator[Answered]:
    answered = Answered(browser, capturing, str(photo))
    yield answered
    answered.context.close()


def test_one_tap_says_what_it_is_and_one_can_correct_oneself(answered):
    page = answered.page
    assert "without its place, time and camera" in page.inner_text("#kept")
    assert page.inner_text("#kept").endswith("for at most 1 day.")
    answered.open()
    buttons = page.locator("#labels button").all_inner_texts()
    assert buttons[:4] == answered.labels[1:], "what else it may be comes first"
    assert sorted(buttons) == sorted(set(buttons))
    assert len(buttons) == 10
    page.click("#labels button:text-is('beef tartare')")
    answered.thanked("Kept as: beef tartare")
    assert answered.kept() == "beef_tartare"
    assert page.is_hidden("#chooser")
    answered.open()
    page.click("#none")
    answered.thanked("Kept as: Something else")
    assert answered.kept() is None
    page.click("#right")
    answered.thanked(f"Kept as: {answered.labels[0]}")
    assert answered.kept() == answered.labels[0].replace(" ", "_")
    assert page.get_attribute("#right", "aria-pressed") == "true"
    assert not answered.errors


def test_what_was_said_of_a_photo_is_there_again_with_it(answered, photo):
    answered.page.click("#right")
    answered.thanked("Kept as")
    answered.choose(str(photo))
    answered.page.wait_for_selector("#history li:nth-child(2)")
    assert answered.page.inner_text("#thanks") == ""
    assert answered.page.get_attribute("#right", "aria-pressed") == "false"
    answered.page.click("#history li:nth-child(2) button")
    answered.thanked("Kept as")


def test_keyboard_alone_is_enough_to_correct(answered):
    page = answered.page
    page.focus("#right")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'search'")
    page.keyboard.press("Escape")
    assert (page.evaluate("document.activeElement.id"), page.is_hidden("#chooser")) == ("wrong", True)
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelectorAll('#labels li').length > 5")
    page.keyboard.type("Tart")
    page.wait_for_function("() => document.querySelectorAll('#labels li').length === 1")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "beef tartare"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "none"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    answered.thanked("Kept as: beef tartare")
    assert page.evaluate("document.activeElement.id") == "wrong", "the focus is not lost with what was chosen"
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#labels li').length > 5")
    page.keyboard.type("zzz")
    page.wait_for_function("() => document.getElementById('matches').textContent.includes('match: 0.')")
    page.keyboard.press("Enter")  # on nothing: nothing is sent
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    answered.thanked("Something else")
    assert answered.kept() is None


def test_class_is_found_among_a_thousand(answered):
    page = answered.page
    labels = [f"dish_{number}" for number in range(998)] + ["crème_brûlée", "cream of <b>mushrooms</b>"]
    page.route("**/v2/models/**", lambda route: route.fulfill(json={"parameters": {"labels": labels}}))
    answered.open()
    page.wait_for_function("() => document.getElementById('matches').textContent.includes('1,004')")
    assert page.locator("#labels button").count() == 60
    for typed, found in (("brulee", "crème brûlée"), ("  MUSHROOMS cream", "cream of <b>mushrooms</b>"), ("dish 997", "dish 997")):
        page.fill("#search", typed)
        page.wait_for_function("() => document.querySelectorAll('#labels li').length === 1")
        assert page.locator("#labels button").all_inner_texts() == [found]


@pytest.mark.parametrize("why", ["capture is off", "it cannot be stripped"])
def test_nothing_is_offered_for_a_photo_that_is_not_kept(browser, server, capturing, photo, why):
    seen = Seen(browser, server.port if why == "capture is off" else capturing[0].port)
    tiff = {"name": "a.tiff", "mimeType": "image/tiff", "buffer": picture_bytes(1, image_format="TIFF")}
    seen.choose(str(photo) if why == "capture is off" else tiff)
    assert len(seen.answers()) == 5
    assert seen.page.is_hidden("#feedback")
    seen.context.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 404, "body": "{}"}, "This photo is not kept any more."),
        ({"status": 422, "body": "{}"}, "does not have this class"),
        ({"status": 429, "headers": {"retry-after": "2"}, "body": "{}"}, "Please try again in a moment. Trying again in 2 s."),
        ({"status": 503, "headers": {"retry-after": "2"}, "body": "{}"}, "The server is busy. Trying again in 2 s."),
        ({"status": 507, "body": "{}"}, "no room"),
        ({"status": 500, "body": "<html>"}, "could not keep this (status 500)"),
        ({"status": 401, "body": "{}"}, "This server needs a key."),
    ],
)
def test_feedback_that_is_not_taken_is_said_so(answered, answer, words):
    answered.page.route("**/feedback", lambda route: route.fulfill(**answer))
    answered.page.click("#right")
    answered.thanked(words)
    assert answered.page.get_attribute("#right", "aria-pressed") == "false"
    assert answered.labels[0] in answered.page.inner_text("#status"), "the answer goes on being there"
    answered.page.unroute("**/feedback")
    if answer["status"] == 401:
        answered.page.fill("#key input", "sf_new")
        answered.page.keyboard.press("Enter")
    elif "retry-after" not in answer.get("headers", {}):
        answered.page.click("#right")
    answered.thanked("Kept as")


def test_photo_whose_time_is_over_and_a_browser_that_is_offline(answered):
    answered.context.set_offline(True)
    answered.page.click("#right")
    answered.thanked("You are offline.")
    answered.context.set_offline(False)
    shutil.rmtree(answered.folder)
    answered.page.click("#right")
    answered.thanked("This photo is not kept any more.")


@pytest.mark.parametrize("language", ["en-US", "de-AT"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_choosing_shuts_nobody_out_and_nothing_sticks_out(browser, capturing, photo, scheme, width, language):
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "locale": language}
    answered = Answered(browser, capturing, str(photo), **options)
    answered.open()
    shuts_nobody_out(answered)
    assert answered.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = (
        "[...document.querySelectorAll('#feedback button')].filter((one) => one.offsetHeight < 24 || one.offsetWidth < 24).length"
    )
    assert answered.page.evaluate(small) == 0, "WCAG 2.2, 2.5.8"
    if language == "de-AT":
        assert answered.page.inner_text("#wrong") == "Falsch? Es ist …"
        assert answered.page.inner_text("#kept").endswith("höchstens 1 Tag lang.")
    answered.page.click("#none")
    answered.thanked("Etwas anderes" if language == "de-AT" else "Something else")
    shuts_nobody_out(answered)
    assert answered.kept() is None
    answered.context.close()
