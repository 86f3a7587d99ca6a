"""The pages: they need nothing from elsewhere, and have words for whatever the door answers."""

import re
from pathlib import Path

import pytest

from handler.text import MAX_CHARACTERS
from scripts.door.access.guard import Access
from scripts.door.api.statuses import STATUSES
from scripts.door.pages import PAGES, WEB, page_files
from scripts.door.state import State
from tests.door.asking import ask
from tests.door.without_server import application

APP = application(State())
FILES = page_files()
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
# what the page itself prevents, or what only programs can do: words for each other status are the same
NEVER_SEEN = {200, 405, 411, 414, 417, 421, 431, 501, 505}


@pytest.mark.parametrize("path", FILES)
def test_file_is_answered_with_its_type_and_headers(path):
    answer = ask(APP, "GET", path)
    assert answer.status_code == 200
    assert answer.content == (WEB / FILES[path]).read_bytes()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == TYPES[Path(FILES[path]).suffix]
    assert ask(APP, "HEAD", path, headers={"accept-encoding": "identity"}).headers["content-length"] == str(len(answer.content))
    again = ask(APP, "GET", path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", FILES)
def test_text_is_packed_for_those_who_unpack_it(path):
    plain, packed = (ask(APP, "GET", path, headers={"accept-encoding": wanted}) for wanted in ("br, gzip;q=0", "br, gzip;q=0.5"))
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    if not path.endswith(".png"):
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < 0.7 * len(plain.content)
        assert packed.headers["etag"] != plain.headers["etag"]
    again = ask(APP, "GET", path, headers={"accept-encoding": "gzip", "if-none-match": packed.headers["etag"]})
    assert (again.status_code, again.headers["vary"]) == (304, "accept-encoding")


def test_page_sends_texts_up_to_the_limit():
    assert re.findall(r"LONGEST_TITLE = (\d+);", (WEB / "page.js").read_text()) == [str(MAX_CHARACTERS)]


@pytest.mark.parametrize("path", PAGES)
def test_what_a_page_links_to_is_there(path):
    linked = re.findall(r'(?:href|src)="([^"]*)"', ask(APP, "GET", path).text)
    assert "/web/icon.svg" in linked, "without one a browser asks for /favicon.ico, and shows the 404 as an error"
    assert {link: ask(APP, "GET", link).status_code for link in linked} == dict.fromkeys(linked, 200)


def test_all_files_of_the_page_are_kept_for_those_who_are_offline():
    (listed,) = re.findall(r"FILES = \[(.*?)\]", (WEB / "offline.js").read_text(), re.DOTALL)
    docs = {path for path in FILES if "docs" in path}
    assert set(re.findall(r'"([^"]+)"', listed)) == FILES.keys() - docs - {"/web/offline.js"}
    assert ask(APP, "GET", "/web/offline.js").headers["service-worker-allowed"] == "/"


def test_pages_are_small_and_need_nothing_from_elsewhere():
    files = list(WEB.iterdir())
    assert sum(file.stat().st_size for file in files) < 60_000
    for file in (file for file in files if file.suffix != ".png"):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w|innerHTML|eval\(|<style|\son\w+=|\sstyle=", text), file


def test_pages_need_no_key(tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text("")
    app = application(State(), Access(keys))
    assert {path: ask(app, "GET", path).status_code for path in FILES} == dict.fromkeys(FILES, 200)
    assert ask(app, "GET", "/v1/models").status_code == 401


def texts() -> dict[str, dict[str, str]]:
    """By language, the page's texts by their names."""
    found: dict[str, dict[str, str]] = {}
    for line in (WEB / "texts.js").read_text().splitlines():
        if language := re.fullmatch(r"  (\w+): \{", line):
            found[language[1]] = {}
        elif text := re.fullmatch(r'    (\w+): "(.*)",', line):
            found[list(found)[-1]][text[1]] = text[2]
    return found


def test_each_language_has_every_text_with_its_values():
    first, *others = texts().values()
    assert len(first) > 20
    for other in others:
        assert list(other) == list(first)
        values = re.compile(r"\{\w+\}")
        assert {name: sorted(values.findall(text)) for name, text in other.items()} == {
            name: sorted(values.findall(text)) for name, text in first.items()
        }
        assert len({len(each["places"].split(", ")) for each in (first, other)} | {9}) == 1


def test_each_status_that_a_person_may_meet_has_words():
    for each in texts().values():
        assert {str(status) for status in STATUSES.keys() - NEVER_SEEN} <= each.keys()
        assert "{status}" in each["other"]


def test_each_text_that_the_pages_use_is_there():
    used = set(re.findall(r'data-(?:text|label)="(\w+)"', (WEB / "index.html").read_text()))
    for name in ("page.js", "api.js", "feedback.js"):
        used |= set(re.findall(r'\b(?:text|Failure)\("(\w+)"', (WEB / name).read_text()))
    assert used - {"status"} <= next(iter(texts().values())).keys()
