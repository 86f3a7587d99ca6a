"""An archive that reads texts: it proves itself by golden answers to photos, texts and both, and its handler answers each."""

import json
import zipfile

import numpy as np
import pytest

from handler.text import encode_text
from scripts.archive.build import build
from scripts.archive.read import load_handler
from scripts.backend.torchserve.versions import Golden
from tests.conftest import modules_of_a_worker, picture_bytes
from tests.offline_context import OfflineContext


class Context(OfflineContext):
    """Headers of each request, and what is set of its answer."""

    def __init__(self, *headers):
        self.headers, self.statuses = headers, {}

    def get_all_request_header(self, index):
        return self.headers[index]

    def set_response_status(self, code, phrase, index):
        self.statuses[index] = code


@pytest.fixture(scope="module")
def text_archive(text_exported, tmp_path_factory):
    return build(text_exported, "1.0.0", tmp_path_factory.mktemp("model_store"))


@pytest.fixture(scope="module")
def handler(text_archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(text_archive) as content:
        content.extractall(folder)
    with modules_of_a_worker():
        yield load_handler(folder)


def told(text, **more):
    return {"X-Text": encode_text(text), **more}


def test_golden_answers_are_of_photos_of_texts_and_of_both(text_exported):
    content = json.loads((text_exported / "golden.json").read_text())
    golden, own = content["photos"], next(iter(content["programs"].values()))
    kinds = {(bool(photo["image"]), bool(photo.get("text"))) for photo in golden}
    assert kinds == {(True, False), (True, True), (False, True)}
    by_name = {photo["name"]: row for photo, row in zip(golden, own["probabilities"], strict=True)}
    assert by_name["landscape.jpg"] != by_name["landscape.jpg with a text"] != by_name["text alone"]
    found = Golden.of(content)
    assert found.texts.count("") == 4
    assert found.photos.count(b"") == 1


@pytest.mark.slow
def test_archive_whose_texts_are_read_otherwise_does_not_prove_itself(text_exported, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in text_exported.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    spec = json.loads((broken / "spec.json").read_text())
    spec["text"]["longest"] = 3
    (broken / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match=r"golden photo '.*text.*': the answer in .* differs"):
        build(broken, "1.0.0", tmp_path / "store")


def test_photo_text_and_both_are_answered_in_one_batch(handler):
    photo = picture_bytes(1)
    context = Context({}, told("My ramen soup"), told("My ramen soup"), told("?!"), {})
    bodies = handler.handle([{"body": photo}, {"body": photo}, {"body": b""}, {"body": photo}, {"body": b""}], context)
    alone, both, text, wordless, empty = (json.loads(body) for body in bodies)
    assert context.statuses == {4: empty["code"]}
    assert empty["type"] == "PhotoError"
    assert wordless == alone
    best = [one["predictions"][0] for one in (both, text)]
    assert best[0]["label"] == best[1]["label"]
    assert best[0]["probability"] > alone["predictions"][0]["probability"] - 0.05
    # however the text is spelt
    again = handler.handle([{"body": b""}], Context(told("MY\u3000\uff32amen, soup")))
    assert json.loads(again[0]) == text


def test_text_over_the_limit_is_refused_and_its_neighbours_are_answered(handler):
    context = Context(told("x" * 501), told("soup"), {"X-Text": "?"})
    bodies = [json.loads(body) for body in handler.handle([{"body": picture_bytes(1)}] * 3, context)]
    assert context.statuses == {0: 413, 2: 400}
    assert "501 characters, the limit is 500" in bodies[0]["message"]
    assert bodies[1]["predictions"]


def test_explanation_names_the_words_that_mattered_most_first(handler):
    context = Context(told("Sunday ramen soup", explain="True"), {"explain": "True"})
    explained, of_photo = (json.loads(body) for body in handler.handle([{"body": picture_bytes(1)}] * 2, context))
    falls = {one["word"]: one["fall"] for one in explained["words"]}
    assert set(falls) == {"Sunday", "ramen", "soup"}
    assert list(falls.values()) == sorted(falls.values(), reverse=True)
    assert np.shape(explained["grid"]) == (14, 14)
    assert "words" not in of_photo
    # what is left without a word is answered just so
    fall = explained["probability"] - probability(handler, "Sunday ramen", explained["index"])
    assert falls["soup"] == pytest.approx(fall, abs=2e-3)


def probability(handler, text, index):
    (body,) = handler.handle([{"body": picture_bytes(1)}], Context(told(text)))
    return next(one["probability"] for one in json.loads(body)["predictions"] if one["index"] == index)


def test_text_alone_is_explained_by_its_words_and_no_part_of_a_photo(handler):
    (body,) = handler.handle([{"body": b""}], Context(told("pizza", explain="True")))
    explained = json.loads(body)
    assert not np.any(explained["grid"])
    assert [one["word"] for one in explained["words"]] == ["pizza"]


@pytest.mark.slow
def test_archive_of_photos_alone_refuses_a_text(unpacked):
    context = Context(told("soup"), {})
    refused, answered = (json.loads(body) for body in load_handler(unpacked).handle([{"body": picture_bytes(1)}] * 2, context))
    assert context.statuses == {0: 400}
    assert "reads no text: send the photo alone" in refused["message"]
    assert answered["predictions"]
