"""A list's column of texts goes to a model that reads them, by an archive and by a server; others leave it out."""

import zipfile

import pytest

from handler.text import decode_header
from scripts.archive.build import build
from scripts.predict.lists import listed_photos
from scripts.predict.offline import Offline
from scripts.predict.photo import LocalPhoto
from scripts.predict.server import Server
from tests.conftest import modules_of_a_worker, picture_bytes
from tests.predict.scripted import serving


@pytest.fixture
def photos(tmp_path):
    """A list of three photos: with a text, with one over the limit, without."""
    (tmp_path / "a.jpg").write_bytes(picture_bytes(1))
    (tmp_path / "list.csv").write_text(f"path,title\na.jpg,My ramen soup\na.jpg,{'x' * 501}\na.jpg,\n")
    return tmp_path / "list.csv"


@pytest.mark.parametrize("column", ["text", "Caption", " title "])
def test_text_is_read_beside_the_photo_and_changes_its_stamp(tmp_path, column):
    (tmp_path / "a.jpg").write_bytes(b"a photo")
    (tmp_path / "list.csv").write_text(f'{column},path\n"My, soup",a.jpg\n,a.jpg\nMy pie,a.jpg\n')
    found = list(listed_photos(tmp_path / "list.csv"))
    assert [photo.text for photo in found] == ["My, soup", "", "My pie"]
    assert found[1] == LocalPhoto(tmp_path / "a.jpg")
    assert len({photo.stamp() for photo in found}) == 3
    assert found[0].stamp().startswith(found[1].stamp())


@pytest.mark.slow
@pytest.mark.parametrize("reads", [True, False])
def test_archive_that_reads_texts_gets_them_and_another_does_not(photos, tmp_path, text_exported, exported, reads):
    with zipfile.ZipFile(build(text_exported if reads else exported, "1.0.0", tmp_path / "store")) as content:
        content.extractall(tmp_path / "unpacked")
    with modules_of_a_worker():
        titled, too_long, plain = Offline(tmp_path / "unpacked").answers(listed_photos(photos))
    if reads:
        assert titled["predictions"] != plain["predictions"]
        assert (too_long["code"], too_long["type"]) == (413, "RequestError")
        assert "501 characters" in too_long["message"]
    else:
        assert titled["predictions"] == too_long["predictions"] == plain["predictions"]


def by_text(body, times):
    return 200, {}, {"predictions": [{"label": "ramen", "index": 0, "probability": 1.0}]}


@pytest.mark.parametrize("reads", [True, False])
def test_server_gets_a_text_with_its_photo_where_its_model_reads_texts(photos, reads):
    with serving(by_text) as server:
        server.pages["/v1/models"] = [(200, {"models": ["food"], "texts": ["food"] if reads else ["another"]})]
        rows = list(Server(server.url, "food", None).answers(listed_photos(photos)))
        sent = [decode_header(headers["x-text"]) for _, headers in server.requests if "x-text" in headers]
    assert sent == (["My ramen soup"] if reads else [])
    assert ["predictions" in row for row in rows] == [True, not reads, True]
    assert rows[1].get("code", 413) == 413
