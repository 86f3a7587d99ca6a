"""The review page in Debian's chromium, by the keyboard alone; axe-core finds nothing that shuts people out."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.collection.batch import Collected
from scripts.review.decisions import LABEL, NONE, OPEN, SKIP, Decision, Decisions
from scripts.review.items import read_items, sort
from scripts.review.server import ReviewServer
from tests.chromium import CHROMIUM, needs_chromium
from tests.conftest import ROOT, picture_bytes
from tests.review.test_review import answer, table, write_batch

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
MANY = [f"dish_{number:03}" for number in range(1000)] + ["pho", "ramen", "spring_rolls"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def reviewed(tmp_path):
    """(server, decisions, items): four photos and a thousand classes."""
    answers = [{"answer": answer(0.99, 0.01)}, {"title": "what is this?"}, {"answer": answer(0.5, 0.45, sure=False)}]
    answers.append({"answer": answer(0.9, 0.1), "feedback": "spring_rolls", "given": True})
    items = sort(read_items(write_batch(tmp_path / "batch", answers)), [])
    decisions = Decisions(tmp_path / "labels.csv")
    with ReviewServer(0, items, MANY, decisions) as server:
        yield server, decisions, items


@pytest.fixture
def many(tmp_path):
    """(server, decisions, items): two hundred photos, each with three suggestions."""
    items = sort(read_items(write_batch(tmp_path / "batch", [{"answer": answer(0.5, 0.3, 0.2)}] * 200)), [])
    decisions = Decisions(tmp_path / "labels.csv")
    with ReviewServer(0, items, MANY, decisions) as server:
        yield server, decisions, items


def open_page(browser, server, **options):
    page = browser.new_context(**options).new_page()
    page.goto(server.url)
    page.wait_for_function("() => document.getElementById('count').textContent")
    return page


def decided(page, count):
    page.wait_for_function("count => document.getElementById('count').textContent.startsWith(`${count} `)", arg=count)


def test_keys_typed_fast_count_each_for_the_photo_that_is_shown(browser, many, tmp_path):
    server, decisions, items = many
    page = open_page(browser, server)
    keys = ["1", "2", "0", "Space", "1", "Backspace", "3"] * 30
    for key in keys:
        page.keyboard.press(key)
    decided(page, 150)
    page.wait_for_function("() => !document.getElementById('count').textContent.includes('being')")
    once = [(LABEL, 0), (LABEL, 1), (NONE, None), (SKIP, None), (LABEL, 2)]
    for item, (kind, place) in zip(items, once * 30, strict=False):
        best = item.answers[0]["predictions"]
        assert decisions.of(item.path) == Decision(kind, None if place is None else best[place]["label"])
    assert Decisions(decisions.table).made == decisions.made
    page.context.close()


def test_choice_that_cannot_be_kept_brings_its_photo_back_and_later_keys_label_nothing(browser, many, monkeypatch):
    server, decisions, items = many
    page = open_page(browser, server)
    decide, full = decisions.decide, True

    def slow_disk(path, decision):
        if full and path == items[1].path:
            raise OSError(28, "No space left on device")
        decide(path, decision)

    monkeypatch.setattr(decisions, "decide", slow_disk)
    for _ in range(5):
        page.keyboard.press("1")
    page.wait_for_selector("#failed[open]")
    assert "not kept: the choice cannot be written: No space left on device" in page.inner_text("#why")
    assert page.get_attribute("#photo", "src") == "photos/1"
    for key in ("1", "0", "Space", "Backspace", "p"):
        page.keyboard.press(key)
    assert axe.Axe().run(page).violations_count == 0
    page.keyboard.press("Enter")
    decided(page, 1)
    assert set(decisions.made.values()) == {Decision(LABEL, "pho")}
    full = False
    page.keyboard.press("2")
    decided(page, 2)
    assert decisions.of(items[1].path) == Decision(LABEL, "ramen")
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    decided(page, 0)
    page.context.close()


def test_server_that_is_gone_is_named(browser, many):
    server, decisions, _ = many
    page = open_page(browser, server)
    page.route("**/choices", lambda route: route.abort())
    page.keyboard.press("1")
    page.wait_for_selector("#failed[open]")
    assert "make review does not run any more" in page.inner_text("#why")
    decided(page, 0)
    assert not decisions.made
    page.context.close()


def test_keyboard_alone_labels_skips_searches_and_undoes(browser, reviewed):
    server, decisions, items = reviewed
    page = open_page(browser, server)
    page.keyboard.press("1")  # what a person said
    decided(page, 1)
    page.keyboard.press("Space")
    decided(page, 2)
    page.keyboard.press("0")
    decided(page, 3)
    page.keyboard.type("dish 99")
    page.wait_for_selector("#matches li")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    decided(page, 4)
    kinds = [decisions.of(item.path).kind for item in items]
    assert kinds == [LABEL, SKIP, NONE, LABEL]
    assert [decisions.of(item.path).label for item in items] == ["spring_rolls", None, None, "dish_991"]
    page.keyboard.press("Backspace")
    decided(page, 3)
    page.keyboard.type("/my own dish")
    page.keyboard.press("Enter")
    page.wait_for_selector("#new[open]")
    assert axe.Axe().run(page).violations_count == 0
    page.keyboard.press("Enter")  # a slip: no new class
    decided(page, 3)
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Enter")
    page.wait_for_selector("#new[open]")
    page.keyboard.press("n")
    decided(page, 4)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "Skipped" in page.inner_text("#status")
    assert "my own dish" in table(decisions).values()
    for left in (3, 2, 1):
        page.keyboard.press("Backspace")
        decided(page, left)
    page.reload()
    decided(page, 1)
    assert page.get_attribute("#photo", "src") == "photos/1"
    assert decisions.of(items[1].path).kind == OPEN
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844), (320, 640)])
def test_page_shuts_nobody_out_and_fits_every_screen(browser, reviewed, scheme, size, tmp_path):
    page = open_page(browser, reviewed[0], color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
    page.keyboard.type("dish")
    page.wait_for_selector("#matches li")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.context.close()


def test_nothing_of_another_site_is_asked(browser, reviewed):
    asked = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(reviewed[0].url)
    page.wait_for_function("() => document.getElementById('count').textContent")
    assert all(re.match(re.escape(reviewed[0].url), url) for url in asked)
    page.close()


def resident_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def test_ten_thousand_photos_and_a_thousand_classes_are_quick_to_start_and_to_label(browser, tmp_path, capsys):
    labels = MANY[:1000]
    predictions = [{"label": label, "probability": 0.2} for label in labels[:5]]
    given = {"predictions": predictions, "sure": True, "version": "1.0.0", "labels": labels}
    folder, photo = tmp_path / "batch", picture_bytes(0, (64, 48))
    (folder / "photos").mkdir(parents=True)
    lines = []
    for number in range(10_000):
        (folder / f"photos/{number}.jpg").write_bytes(photo)
        lines.append(Collected(f"photos/{number}.jpg", "captured", "a server", "2026-11-27T00:00:00Z", answer=given).line() + "\n")
    (folder / "batch.jsonl").write_text("".join(lines))
    command = [sys.executable, "-m", "scripts.review.review", str(folder), "--out", str(tmp_path / "labels.csv"), "--port", "0"]
    begun = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("10000 photos of 10000 to review")
            server_s, page = time.monotonic() - begun, browser.new_context().new_page()
            begun = time.monotonic()
            page.goto(line.split()[6])
            decided(page, 0)
            page_s, begun = time.monotonic() - begun, time.monotonic()
            for _ in range(100):
                page.keyboard.press("1")
            page.wait_for_function("() => document.getElementById('count').textContent === '100 of 10000'")
            choice_s = (time.monotonic() - begun) / 100
            heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
            memory = resident_mb(process.pid)
            page.context.close()
        finally:
            process.send_signal(signal.SIGINT)
    with capsys.disabled():
        print(f"\nserver {server_s:.1f} s, page {page_s:.1f} s, a choice {1000 * choice_s:.0f} ms, {memory} MB, page {heap:.0f} MB")
    assert len(Decisions(tmp_path / "labels.csv").made) == 100
    assert memory < 1000
