"""The contact sheet: the unsure first, of bounded size, and safe whatever a photo is called."""

import os
import re

import pytest
from PIL import Image

from scripts.folders import shown
from scripts.predict.chosen import FAILURES, PER_CLASS, choose
from scripts.predict.sheet import write_sheet
from scripts.predict.thumbnails import Thumbnails
from tests.chromium import CHROMIUM, needs_chromium
from tests.conftest import LIMIT_S, ROOT, picture_bytes
from tests.predict.test_tables import answered, failed

EVIL = '"><img src=x onerror=alert(1)><script>alert(1)</script>.jpg'


def guess(photo, label, probability, sure=True):
    return answered(photo) | {"predictions": [{"label": label, "index": 0, "probability": probability}], "sure": sure}


def test_of_each_class_the_least_sure_photos_are_chosen():
    rows = [guess(f"{number}.jpg", "ramen", 0.2 + number / 10_000) for number in range(5000)]
    rows += [guess("unsure.jpg", "ramen", 0.9, sure=False), guess("a.jpg", "pizza", 0.5)]
    chosen = choose([*rows, *(failed(f"{number}.txt", "no photo") for number in range(1000))])
    pizza, ramen = chosen.classes
    assert (pizza.label, pizza.photos, ramen.photos, ramen.unsure) == ("pizza", 1, 5001, 1)
    assert [row["photo"] for row in ramen.rows[:3]] == ["unsure.jpg", "0.jpg", "1.jpg"]
    assert (len(ramen.rows), len(chosen.failures), chosen.failed, chosen.photos) == (PER_CLASS, FAILURES, 1000, 6002)


def test_many_classes_share_the_pictures():
    chosen = choose(guess(f"{number}.jpg", f"class {number % 1000}", 0.5) for number in range(20_000))
    assert [len(found.rows) for found in chosen.classes] == [2] * 1000


@pytest.fixture
def page(tmp_path):
    """A sheet of photos of several kinds, one of which is gone, and two failures."""
    names = [f"{number}.jpg" for number in range(4)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(picture_bytes(number))
    (tmp_path / "cmyk.jpg").write_bytes(picture_bytes(5, mode="CMYK"))
    (tmp_path / EVIL.replace("/", "")).write_bytes(picture_bytes(6, image_format="PNG"))
    names += ["cmyk.jpg", EVIL.replace("/", ""), "gone.jpg"]
    labels = ["ramen", "ramen", "ramen", EVIL, "ramen", "ramen", "ramen"]
    rows = [
        guess(str(tmp_path / name), label, 0.9 - number / 10, number != 2)
        for number, (name, label) in enumerate(zip(names, labels, strict=True))
    ]
    rows += [failed(EVIL, EVIL), failed(str(tmp_path / "notes.txt"), "no photo")]
    path = tmp_path / "labels.html"
    write_sheet(choose(rows), path, f"photos {EVIL}", str(tmp_path / "labels.csv"))
    return path


def test_names_are_text_and_nothing_is_fetched_or_run(page):
    text = page.read_text()
    assert "<script" not in text
    assert "onerror=alert(1)>" not in text
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', text)) == text.count("<img ") == 6
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)
    assert "default-src 'none'" in text
    assert "gone.jpg: ramen, 30 %" in text
    assert text.index("2.jpg: ramen, 70 %, unsure") < text.index("gone.jpg") < text.index("0.jpg: ramen")


def test_names_in_no_encoding_are_shown_with_question_marks(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture_bytes(1))
    path, rows = folder / "labels.html", [guess(shown(folder / "a.jpg"), "ramen", 0.9)]
    write_sheet(choose(rows), path, folder.name, str(folder / os.fsdecode(b"\xe9.csv")))
    assert "<title>caf?: photos by class" in path.read_text()
    assert "<code>?.csv</code>" in path.read_text()


def test_photos_that_are_costly_together_have_their_pictures(tmp_path):
    for number in range(8):
        Image.new("RGB", (5000, 4000), (number, 0, 0)).save(tmp_path / f"{number}.png", compress_level=1)
    names = [str(tmp_path / f"{number}.png") for number in range(8)]
    pictures = Thumbnails(ROOT / "handler" / "model-config.yaml").of(names)
    assert all(picture.startswith("data:image/jpeg") for picture in pictures)


@pytest.mark.browser
@pytest.mark.slow
@needs_chromium
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_it_from_disk(page, scheme, width):
    playwright = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            # the engine that looks for faults is a script, which the page's own policy refuses
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
            opened, asked, said = context.new_page(), [], []
            opened.on("request", lambda request: asked.append(request.url))
            opened.on("dialog", lambda dialog: said.append(dialog.message))
            opened.goto(page.as_uri(), timeout=1000 * LIMIT_S)
            assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
            assert opened.evaluate("[...document.images].every(image => image.naturalWidth === 144 && image.alt)")
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            links = opened.eval_on_selector_all("figure a", "links => links.map(link => link.href)")
            assert (page.parent / "0.jpg").as_uri() in links
            found = axe.Axe().run(opened)
            assert found.violations_count == 0, found.generate_report()
            assert said == []
        finally:
            browser.close()
