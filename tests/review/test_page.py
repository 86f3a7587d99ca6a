"""The review page in Debian's chromium, by the keyboard alone; axe-core finds nothing that shuts people out."""

import re

import pytest

from scripts.review.decisions import LABEL, NONE, OPEN, SKIP, Decisions
from scripts.review.items import read_items, sort
from scripts.review.server import ReviewServer
from tests.chromium import CHROMIUM, needs_chromium
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


def open_page(browser, server, **options):
    page = browser.new_context(**options).new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_function("() => document.getElementById('count').textContent")
    return page


def decided(page, count):
    page.wait_for_function("count => document.getElementById('count').textContent.startsWith(`${count} `)", arg=count)


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
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
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
    page.goto(f"http://127.0.0.1:{reviewed[0].port}/")
    page.wait_for_function("() => document.getElementById('count').textContent")
    assert all(re.match(rf"http://127.0.0.1:{reviewed[0].port}/", url) for url in asked)
    page.close()
