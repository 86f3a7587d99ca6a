"""A text beside a photo, in each form that one comes in; what a model that reads none says; a real server of one that does."""

import base64
import json
import struct
from urllib.parse import quote_plus

import httpx
import pytest

from handler.text import decode_header, encode_text
from scripts.backend.answer import Answer
from scripts.door.api.openapi import document
from scripts.door.errors import DoorError
from scripts.door.state import State
from tests.conftest import LIMIT_S, picture_bytes
from tests.door.asking import ask
from tests.door.test_forms import JSON, MULTIPART, PHOTO, TEXT, URLENCODED, form, part, read
from tests.door.without_server import application, application_of, predictions

TITLE = "Crème brûlée 🍮"
READS: dict[str, dict[str, dict[str, int]]] = {"spec": {"text": {}}}
STATE = State(
    models={"dishes": {"default": "1", "versions": {"1": READS, "0": {}}}, "old": {"default": "1", "versions": {"1": {}}}}
)


def json_of(**members):
    return json.dumps(members).encode()


# what: (body, content type, further headers, whether a photo is in it)
GOOD = {
    "form": (form(part(PHOTO), part(TITLE.encode(), "text")), MULTIPART, {}, True),
    "form, the text first": (form(part(TITLE.encode(), "text"), part(PHOTO)), MULTIPART, {}, True),
    "form, the text alone": (form(part(TITLE.encode(), "text")), MULTIPART, {}, False),
    "JSON": (json_of(image=TEXT, text=TITLE), JSON, {}, True),
    "JSON, escaped": (json.dumps({"image": TEXT, "text": TITLE}, ensure_ascii=True).encode(), JSON, {}, True),
    "JSON, the text alone": (json_of(text=TITLE), JSON, {}, False),
    "JSON, no photo beside it": (json_of(text=TITLE, top_k=3), JSON, {}, False),
    "urlencoded": (f"image={quote_plus(TEXT)}&text={quote_plus(TITLE)}".encode(), URLENCODED, {}, True),
    "urlencoded, the text alone": (f"text={quote_plus(TITLE)}".encode(), URLENCODED, {}, False),
    "a photo, the text in a header": (PHOTO, "image/jpeg", {"x_text": encode_text(TITLE)}, True),
    "nothing, the text in a header": (b"", "", {"x_text": encode_text(TITLE)}, False),
    "the same text twice": (json_of(image=TEXT, text=TITLE), JSON, {"x_text": encode_text(TITLE)}, True),
    "an instance": (json_of(instances=[{"image": TEXT, "text": TITLE}]), JSON, {}, True),
    "an instance that is a text alone": (json_of(instances=[{"text": TITLE}]), JSON, {}, False),
}


@pytest.mark.parametrize("what", GOOD)
def test_text_is_found_in_each_form_beside_a_photo_and_alone(what):
    body, kind, headers, with_photo = GOOD[what]
    for size in (1000, 7):
        asked = read(body, kind, size=size, **headers)
        assert (asked.photos, asked.texts) == ([PHOTO if with_photo else b""], [TITLE])


def test_instances_have_a_text_each_or_none():
    asked = read(json_of(instances=[{"image": TEXT, "text": TITLE}, TEXT, {"image": TEXT, "text": None}, {"text": "soup"}]), JSON)
    assert asked.texts == [TITLE, "", "", "soup"]
    assert asked.photos == [PHOTO, PHOTO, PHOTO, b""]


@pytest.mark.parametrize("text", ["", "  ", "?!", None])
def test_text_without_a_word_is_none(text):
    assert read(json_of(image=TEXT, text=text), JSON).texts == [""]
    with pytest.raises(DoorError, match="holds no photo"):
        read(json_of(text=text), JSON)


LONG = "x" * 501
BAD = {
    "form, too long": (form(part(PHOTO), part(LONG.encode(), "text")), MULTIPART, {}, 413, "501 characters, the limit is 500"),
    "form, too many bytes": (
        *(form(part(PHOTO), part("🍮".encode() * 501, "text")), MULTIPART, {}),
        *(413, "2,004 bytes, the limit is 2,000"),
    ),
    "form, far too long": (form(part(PHOTO), part(b"x" * 5000, "text")), MULTIPART, {}, 413, "'text' has over 4,096 bytes"),
    "form, not UTF-8": (form(part(PHOTO), part(b"cr\xe8me", "text")), MULTIPART, {}, 400, "field text: the text is not UTF-8"),
    "JSON, too long": (json_of(image=TEXT, text=LONG), JSON, {}, 413, "501 characters"),
    "JSON, a number": (json_of(image=TEXT, text=5), JSON, {}, 400, "the text is a int, expected a string"),
    "JSON, a list": (json_of(image=TEXT, text=["a"]), JSON, {}, 400, "the text is a list, expected a string"),
    "JSON, half a character": (b'{"image": "%b", "text": "\\ud83c"}' % TEXT.encode(), JSON, {}, 400, r"half a character, U\+D83C"),
    "urlencoded, too long": (f"image={quote_plus(TEXT)}&text={LONG}".encode(), URLENCODED, {}, 413, "501 characters"),
    "an instance's, too long": (
        json_of(instances=[TEXT, {"image": TEXT, "text": LONG}]),
        JSON,
        {},
        413,
        "instance 1's text: .*501",
    ),
    "header, no base64": (PHOTO, "", {"x_text": "soup?"}, 400, "the header x-text is not base64"),
    "header, too long": (PHOTO, "", {"x_text": encode_text(LONG)}, 413, "501 characters"),
    "two texts": (json_of(image=TEXT, text="soup"), JSON, {"x_text": encode_text("pie")}, 400, "more than once, and differs"),
    "one text for several instances": (
        json_of(instances=[TEXT, TEXT]),
        JSON,
        {"x_text": encode_text("pie")},
        400,
        "in each instance",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_text_that_cannot_be_is_refused_with_its_value_and_the_limit(what):
    body, kind, headers, status, message = BAD[what]
    with pytest.raises(DoorError, match=message) as refused:
        read(body, kind, **headers)
    assert refused.value.status == status


class Worker:
    """A backend that keeps what it is asked."""

    def __init__(self):
        self.asked = []

    async def ask(self, question):
        self.asked.append(question)
        return Answer(200, {}, b'{"predictions": [], "sure": true, "version": "1"}')

    def close(self):
        pass


def test_worker_gets_the_text_as_a_header_and_the_photo_as_it_is():
    worker = Worker()
    app = application_of(predictions(STATE, worker))
    for path in ("/predictions/dishes", "/explanations/dishes/1", "/v1/models/dishes:predict", "/invocations"):
        body = {"image": TEXT, "text": TITLE}
        headers = {"x-amzn-sagemaker-target-model": "dishes"}
        content = {"instances": [body]} if ":predict" in path else body
        assert ask(app, "POST", path, headers=headers, json=content).status_code == 200
        question = worker.asked.pop()
        assert question.photo == PHOTO
        assert decode_header(question.headers[b"x-text"].decode()) == TITLE
    assert ask(app, "POST", "/predictions/dishes", json={"image": TEXT}).status_code == 200
    assert b"x-text" not in worker.asked.pop().headers


def tensor(texts, **more):
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts, **more}


def images(number, **more):
    return {"name": "image", "datatype": "BYTES", "shape": [number], "data": [TEXT] * number, **more}


def packed(*elements):
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


INFER, SIZE = "/v2/models/dishes/infer", "binary_data_size"
BOTH = packed(PHOTO, PHOTO) + packed(TITLE.encode(), b"")
# what: (inputs, the bytes behind the JSON, the photos and texts that the worker gets)
TENSORS = {
    "a photo and its text": ([images(1), tensor([TITLE])], b"", [(PHOTO, TITLE)]),
    "the text first": ([tensor([TITLE]), images(1)], b"", [(PHOTO, TITLE)]),
    "columns": ([images(2, shape=[2, 1]), tensor([[TITLE], ["soup"]], shape=[2, 1])], b"", [(PHOTO, TITLE), (PHOTO, "soup")]),
    "one of two has a text": ([images(2), tensor(["?!", TITLE])], b"", [(PHOTO, ""), (PHOTO, TITLE)]),
    "texts alone": ([tensor([TITLE, "soup"])], b"", [(b"", TITLE), (b"", "soup")]),
    "a photo alone": ([images(1)], b"", [(PHOTO, "")]),
    "both in binary": (
        [
            images(2, data=None, parameters={SIZE: len(packed(PHOTO, PHOTO))}),
            tensor([0, 0], data=None, parameters={SIZE: len(packed(TITLE.encode(), b""))}),
        ],
        BOTH,
        [(PHOTO, TITLE), (PHOTO, "")],
    ),
    "the photo in binary": (
        [images(1, data=None, parameters={SIZE: len(packed(PHOTO))}), tensor([TITLE])],
        packed(PHOTO),
        [(PHOTO, TITLE)],
    ),
    "the text in binary": (
        [tensor([0], data=None, parameters={SIZE: len(packed(TITLE.encode()))}), images(1)],
        packed(TITLE.encode()),
        [(PHOTO, TITLE)],
    ),
}


def infer(app, path, inputs, behind=b""):
    head = json.dumps({"inputs": inputs}).encode()
    return ask(app, "POST", path, content=head + behind, headers={"inference-header-content-length": str(len(head))})


@pytest.mark.parametrize("what", TENSORS)
def test_texts_are_a_tensor_beside_the_photos_or_alone(what):
    inputs, behind, expected = TENSORS[what]
    worker = Worker()
    assert infer(application_of(predictions(STATE, worker)), INFER, inputs, behind).status_code == 200
    got = [(asked.photo, decode_header(asked.headers.get(b"x-text", b"").decode())) for asked in worker.asked]
    assert sorted(got) == sorted(expected)


BAD_TENSORS = {
    "more texts than photos": ([images(1), tensor(["a", "b"])], 400, "1 photo and 2 texts, expected one for each"),
    "two texts": ([tensor(["a"]), tensor(["b"])], 400, "two inputs 'text'"),
    "three inputs": ([images(1), tensor(["a"]), images(1)], 400, "3 inputs, expected a list of one input"),
    "numbers": ([images(1), tensor([5])], 400, "element 0 of 'text' is a int, expected a string"),
    "UINT8": ([images(1), tensor([1, 2], datatype="UINT8")], 400, "the datatype of 'text' is 'UINT8', expected BYTES, a text"),
    "another shape": ([images(1), tensor(["a"], shape=[2])], 400, "the shape of 'text' is [2], and its data holds 1 texts"),
    "too long": ([images(1), tensor([LONG])], 413, "element 0 of 'text': the text has 501 characters, the limit is 500"),
    "no word, and no photo": ([tensor(["a", "?"])], 400, "element 1 of 'text' has no word, and the request holds no 'image'"),
    "too many": ([tensor(["a"] * 9)], 413, "9 texts, the limit is 8"),
    "no bytes behind": ([images(1), tensor(["a"], parameters={SIZE: 3})], 400, "binary_data_size of 'text' is 3, and 0 bytes"),
}


@pytest.mark.parametrize("what", BAD_TENSORS)
def test_tensor_of_texts_that_cannot_be_is_refused(what):
    inputs, status, message = BAD_TENSORS[what]
    answer = infer(application_of(predictions(STATE, Worker())), INFER, inputs)
    assert (answer.status_code, answer.json()["error"]) == (status, answer.json()["message"])
    assert message in answer.json()["message"]


def test_bytes_of_a_tensor_of_texts_are_utf_8_and_all_there():
    app = application_of(predictions(STATE, Worker()))
    for content, message in ((packed(b"cr\xe8me"), "is not UTF-8"), (packed(b"soup")[:-1], "the data of 'text' breaks off")):
        answer = infer(app, INFER, [images(1), tensor([0], data=None, parameters={SIZE: len(content)})], content)
        assert answer.status_code == 400
        assert message in answer.json()["message"]


@pytest.mark.parametrize("path", ["/v2/models/old", "/v2/models/dishes/versions/0"])
def test_model_that_reads_no_text_has_no_tensor_of_texts(path):
    app = application_of(predictions(STATE, Worker()))
    refused = infer(app, f"{path}/infer", [images(1), tensor([TITLE])])
    assert (refused.status_code, refused.json()["message"]) == (400, "this model reads no text: send the photo alone")
    assert infer(app, f"{path}/infer", [images(1)]).status_code == 200
    assert [one["name"] for one in ask(app, "GET", path).json()["inputs"]] == ["image"]
    both = ask(app, "GET", "/v2/models/dishes").json()["inputs"]
    assert both == [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("image", "text")]


@pytest.mark.parametrize("path", ["/predictions/old", "/predictions/dishes/0", "/explanations/old", "/v1/models/old:predict"])
def test_model_that_reads_no_text_refuses_one_and_answers_the_photo_alone(path):
    worker = Worker()
    app = application_of(predictions(STATE, worker))
    wrapped = (lambda body: {"instances": [body]}) if ":predict" in path else (lambda body: body)
    refused = ask(app, "POST", path, json=wrapped({"image": TEXT, "text": TITLE}))
    assert refused.status_code == 400
    assert "this model reads no text: send the photo alone" in refused.json()["message"]
    assert not worker.asked
    assert ask(app, "POST", path, json=wrapped({"image": TEXT, "text": " "})).status_code == 200


def test_texts_are_described_only_where_a_model_reads_them():
    described = document(STATE)["paths"]["/predictions/{model}"]["post"]["requestBody"]["content"]
    for kind in (JSON, "multipart/form-data"):
        schema = described[kind]["schema"]
        assert schema["properties"]["text"]["maxLength"] == 500
        assert [one["required"] for one in schema["anyOf"]] == [["image"], ["text"]]
    assert "text" not in json.dumps(described["application/octet-stream"])
    only_old = State(models={"old": STATE.models["old"]})
    assert "written beside the photo" not in json.dumps(document(only_old))
    assert ask(application(STATE), "GET", "/v1/models").json() == {"models": ["dishes", "old"], "texts": ["dishes"]}
    assert ask(application(only_old), "GET", "/v1/models").json() == {"models": ["old"]}


@pytest.mark.slow
@pytest.mark.server
def test_real_server_answers_photo_text_and_both(text_server):
    """Behind the door a real TorchServe; an empty body reaches the worker with its text."""
    port = text_server.port
    photo = picture_bytes(1)

    def post(path="predictions", **request):
        return httpx.post(f"http://127.0.0.1:{port}/{path}/seefood", timeout=LIMIT_S, **request)

    image = base64.b64encode(photo).decode()
    both = post(files={"image": photo}, data={"text": "My ramen soup"}).raise_for_status().json()
    assert post(json={"image": image, "text": "MY RAMEN, SOUP!"}).raise_for_status().json() == both
    alone = post(content=photo).raise_for_status().json()
    assert alone != both
    text = post(json={"text": "My ramen soup"}).raise_for_status().json()
    assert text["predictions"][0]["label"] == both["predictions"][0]["label"]
    explained = post("explanations", json={"image": image, "text": "My ramen soup"}).raise_for_status().json()
    assert {one["word"] for one in explained["words"]} == {"My", "ramen", "soup"}
    tensors = [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]}, tensor(["My ramen soup"])]
    url = f"http://127.0.0.1:{port}/v2/models/seefood"
    inferred = httpx.post(f"{url}/infer", json={"inputs": tensors}, timeout=LIMIT_S).raise_for_status().json()["outputs"]
    assert inferred[0]["data"] == [one["label"] for one in both["predictions"]]
    assert [one["name"] for one in httpx.get(url, timeout=LIMIT_S).json()["inputs"]] == ["image", "text"]
    assert post(json={"image": image, "text": "x" * 501}).status_code == 413
    assert post(json={}).status_code == 400
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["texts"] == ["seefood"]
    assert httpx.get(text_server.readyz).json()["ready"]  # its golden photos, texts and both are answered correctly
