"""The protocols of others, as their clients speak them, before a real TorchServe."""

import base64
import gzip
import json
import struct

import httpx
import numpy as np
import pytest

from tests.conftest import LIMIT_S, picture_bytes

pytestmark = pytest.mark.server
VERSION = "0.5.0"
INFER, PREDICT = "/v2/models/seefood/infer", "/v1/models/seefood:predict"


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=LIMIT_S, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def photos():
    return [picture_bytes(number) for number in range(3)]


@pytest.fixture(scope="module")
def expected(client, photos):
    """What our own path answers to each photo."""
    return [client.post("/predictions/seefood", content=photo).json() for photo in photos]


def base64_of(photo):
    return base64.b64encode(photo).decode()


def labels(answer):
    return [prediction["label"] for prediction in answer["predictions"]]


def tensor(photos, **more):
    return {"name": "image", "datatype": "BYTES", "shape": [len(photos)], "data": [base64_of(photo) for photo in photos], **more}


def outputs_of(answer):
    return {output["name"]: output for output in answer.json()["outputs"]}


def is_error(answer, status, words=""):
    """Whether it is our form of an error, with its words."""
    content = answer.json()
    assert (answer.status_code, content["code"]) == (status, status), content
    assert content["request_id"] == answer.headers["x-request-id"]
    assert words in content["message"], content
    if answer.request.url.path.startswith("/v2"):
        assert content["error"] == content["message"]
    return True


# --- the open inference protocol ---


def test_health_and_metadata(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json()["ready"] is True
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    described = client.get("/v2/models/seefood").json()
    assert (described["name"], described["versions"], described["platform"]) == ("seefood", [VERSION], "openvino-int8")
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in described["outputs"]] == ["label", "index", "probability", "sure"]
    assert client.get(f"/v2/models/seefood/versions/{VERSION}").json() == described
    assert client.get("/v2/models/seefood/ready").json() == {"name": "seefood", "version": VERSION, "ready": True}


def test_photos_as_json_are_answered_in_their_order(client, photos, expected):
    answer = client.post(INFER, json={"id": "42", "inputs": [tensor(photos)]})
    content = answer.json()
    assert (content["model_name"], content["model_version"], content["id"]) == ("seefood", VERSION, "42")
    found = outputs_of(answer)
    assert found["label"]["shape"] == found["probability"]["shape"] == [3, 5]
    assert found["label"]["data"] == [label for answer in expected for label in labels(answer)]
    assert found["sure"] == {
        "name": "sure",
        "datatype": "BOOL",
        "shape": [3],
        "data": [answer["sure"] for answer in expected],
    }
    best = [answer["predictions"][0]["probability"] for answer in expected]
    assert found["probability"]["data"][::5] == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("where", ["parameters", "query", "header"])
def test_top_k_and_wanted_outputs(client, photos, where):
    request = {"inputs": [tensor(photos[:1])], "outputs": [{"name": "index"}], "parameters": {}}
    options = {"query": {"params": {"top_k": 2}}, "header": {"headers": {"x-top-k": "2"}}}.get(where, {})
    if where == "parameters":
        request["parameters"]["top_k"] = 2
    found = outputs_of(client.post(INFER, json=request, **options))
    assert list(found) == ["index"]
    assert found["index"]["shape"] == [1, 2]


@pytest.mark.parametrize("form", ["nested", "column", "numbers", "numbers in a batch"])
def test_forms_of_a_photo_in_json(client, photos, expected, form):
    photo = picture_bytes(0)
    given = {
        "nested": tensor([photo], shape=[1, 1], data=[[base64_of(photo)]]),
        "column": tensor([photo], shape=[1, 1]),
        "numbers": tensor([photo], datatype="UINT8", shape=[len(photo)], data=list(photo)),
        "numbers in a batch": tensor([photo], datatype="UINT8", shape=[1, len(photo)], data=[list(photo)]),
    }[form]
    answer = client.post(INFER, json={"inputs": [given]})
    assert outputs_of(answer)["label"]["data"] == labels(expected[0])


def binary(request, content):
    head = json.dumps(request).encode()
    return {"content": head + content, "headers": {"inference-header-content-length": str(len(head))}}


def test_binary_form_in_and_out(client, photos, expected):
    content = b"".join(struct.pack("<I", len(photo)) + photo for photo in photos)
    given = {"name": "image", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(content)}}
    wanted = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "sure"}]
    answer = client.post(INFER, **binary({"inputs": [given], "outputs": wanted}, content))
    length = int(answer.headers["inference-header-content-length"])
    label, sure = json.loads(answer.content[:length])["outputs"]
    rest = answer.content[length:]
    assert label["parameters"]["binary_data_size"] == len(rest)
    assert struct.unpack("<I", rest[:4])[0] == len(labels(expected[0])[0])
    assert sure["data"] == [answer["sure"] for answer in expected]


def test_raw_bytes_of_a_photo_in_binary(client, photos, expected):
    given = {"name": "image", "datatype": "UINT8", "shape": [len(photos[0])]}
    given["parameters"] = {"binary_data_size": len(photos[0])}
    answer = client.post(INFER, **binary({"inputs": [given]}, photos[0]))
    assert outputs_of(answer)["label"]["data"] == labels(expected[0])


def test_compressed_request(client, photos, expected):
    body = gzip.compress(json.dumps({"inputs": [tensor(photos[:1])]}).encode())
    answer = client.post(INFER, content=body, headers={"content-encoding": "gzip"})
    assert outputs_of(answer)["label"]["data"] == labels(expected[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": []}, "0 inputs"),
        ({"inputs": "image"}, "expected a list of one input"),
        ({"inputs": [tensor([b"a"], name="photo")]}, "the input is 'photo'"),
        ({"inputs": [tensor([b"a"], datatype="FP32")]}, "expected BYTES"),
        ({"inputs": [tensor([b"a"], shape=[2])]}, "the shape of 'image' is [2]"),
        ({"inputs": [tensor([b"a", b"b"], shape=[1, 2])]}, "the shape of 'image' is [1, 2]"),
        ({"inputs": [tensor([b"a"], shape=[-1])]}, "the shape of 'image' is [-1]"),
        ({"inputs": [tensor([b"a"], shape=[True])]}, "the shape of 'image' is [True]"),
        ({"inputs": [tensor([b"a"], data=[1])]}, "element 0 of 'image' is a int"),
        ({"inputs": [tensor([b"a"], data=["a!"])]}, "is not base64"),
        ({"inputs": [tensor([b"a"], data=None)]}, "expected a list of its elements"),
        ({"inputs": [tensor([b"a"], datatype="UINT8", data=[256])]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor([b"a"], parameters={"binary_data_size": 3})]}, "0 bytes follow the JSON"),
        ({"inputs": [tensor([b"a"], parameters={"shared_memory_region": "a"})]}, "shared memory"),
        ({"outputs": None}, "outputs is None"),
        ({"outputs": [{"name": {}}]}, "the output '{}' does not exist"),
        ({"outputs": [{"name": "logits"}]}, "the output 'logits' does not exist"),
        ({"outputs": [{"name": "label", "parameters": {"classification": 2}}]}, "classification"),
        ({"parameters": {"top_k": 0}}, "top_k is '0'"),
        ({"parameters": []}, "parameters of the request"),
        ({"id": 1}, "id is a int"),
        ({"id": "x" * 5000}, "5,000 characters"),
    ],
)
def test_wrong_request_is_400_in_both_forms(client, photos, change, words):
    assert is_error(client.post(INFER, json={"inputs": [tensor(photos[:1])]} | change), 400, words)


@pytest.mark.parametrize(
    ("size", "content", "words"),
    [(3, b"\1\0\0", "breaks off in element 0"), (5, b"\2\0\0\0a", "breaks off"), (4, b"\1\0\0\0a", "5 bytes follow")],
)
def test_broken_binary_form_is_400(client, size, content, words):
    given = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    assert is_error(client.post(INFER, **binary({"inputs": [given]}, content)), 400, words)


@pytest.mark.parametrize("length", ["-1", "x", "999999999", "1.5", ""])
def test_bad_length_of_the_json_is_400(client, length):
    answer = client.post(INFER, content=b"{}", headers={"inference-header-content-length": length})
    assert is_error(answer, 400, "Inference-Header-Content-Length")


def test_too_many_photos_are_413(client):
    assert is_error(client.post(INFER, json={"inputs": [tensor([b"a"] * 9)]}), 413, "the limit is 8")


def test_photo_that_fails_is_named_by_its_number(client, photos):
    broken = [photos[0], b"no photo", photos[1]]
    assert is_error(client.post(INFER, json={"inputs": [tensor(broken)]}), 415, "photo 1: ")
    instances = [{"image": {"b64": base64_of(photo)}} for photo in broken]
    assert is_error(client.post(PREDICT, json={"instances": instances}), 415, "photo 1: ")


@pytest.mark.parametrize(
    "path",
    [
        *("/v2/models/other", "/v2/models/other/ready", "/v2/models/seefood/versions/9.9.9", "/v2/repository/index"),
        *("/v1/models/other", "/v1/models/other:predict"),
    ],
)
def test_unknown_model_or_path_is_404(client, path):
    method = "POST" if ":" in path else "GET"
    assert is_error(client.request(method, path), 404)


def test_get_of_infer_is_405(client):
    answer = client.get(INFER)
    assert is_error(answer, 405)
    assert answer.headers["allow"] == "POST"


# --- KServe's first protocol ---


@pytest.mark.parametrize("form", ["b64", "image_bytes", "text"])
def test_instances_are_answered_one_by_one(client, photos, expected, form):
    form_of = {
        "b64": lambda photo: {"image": {"b64": base64_of(photo)}},
        "image_bytes": lambda photo: {"image_bytes": {"b64": base64_of(photo)}},
        "text": base64_of,
    }[form]
    answer = client.post(PREDICT, json={"instances": [form_of(photo) for photo in photos]})
    assert [labels(one) for one in answer.json()["predictions"]] == [labels(one) for one in expected]


def test_models_of_the_first_protocol(client):
    assert client.get("/v1/models").json() == {"models": ["seefood"]}
    assert client.get("/v1/models/seefood").json() == {"name": "seefood", "ready": True}


@pytest.mark.slow
def test_heat_maps_of_instances(client, photos, expected):
    request = {"instances": [base64_of(photo) for photo in photos[:2]]}
    answer = client.post("/v1/models/seefood:explain", json=request, headers={"accept": "image/png"}).json()
    assert [one["label"] for one in answer["explanations"]] == [labels(one)[0] for one in expected[:2]]
    assert [one["label"] for one in answer["predictions"]] == [labels(one)[0] for one in expected[:2]]
    assert len(answer["explanations"][0]["grid"]) == answer["explanations"][0]["grid_size"][0]


# --- SageMaker ---


def test_invocations_answer_a_photo_in_any_form(client, photos, expected):
    assert client.get("/ping").json() == {"status": "Healthy"}
    assert labels(client.post("/invocations", content=photos[0]).json()) == labels(expected[0])
    assert labels(client.post("/invocations", files={"image": photos[0]}).json()) == labels(expected[0])
    several = client.post("/invocations", json={"instances": [base64_of(photo) for photo in photos]}).json()
    assert [labels(one) for one in several["predictions"]] == [labels(one) for one in expected]
    assert is_error(client.post("/invocations", content=b"no photo"), 415)


def test_attributes_and_target_of_sagemaker(client, photos):
    def invoked(**headers):
        named = {f"x-amzn-sagemaker-{name.replace('_', '-')}": value for name, value in headers.items()}
        return client.post("/invocations", content=photos[0], headers=named)

    assert len(invoked(custom_attributes="trace=a,top_k=3").json()["predictions"]) == 3
    assert len(invoked(target_model="seefood", target_variant="blue").json()["predictions"]) == 5
    assert len(invoked(target_model="seefood.tar.gz").json()["predictions"]) == 5
    assert is_error(invoked(target_model="other"), 404, "there is no model 'other'")
    assert is_error(invoked(custom_attributes="top_k=0"), 400, "top_k is '0'")
    assert is_error(invoked(custom_attributes="top_k=3;top_k=4"), 400, "differs")


# --- Triton's own client ---


@pytest.fixture(scope="module")
def triton(server):
    """tritonclient and its connection to the door."""
    library = pytest.importorskip("tritonclient.http", exc_type=(ImportError, RuntimeError))
    with library.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=LIMIT_S) as connection:
        yield library, connection


def test_triton_reads_health_and_metadata(triton):
    library, connection = triton
    assert connection.is_server_live()
    assert connection.is_server_ready()
    assert connection.is_model_ready("seefood")
    assert connection.is_model_ready("seefood", VERSION)
    assert not connection.is_model_ready("other")
    assert connection.get_server_metadata()["name"] == "seefood"
    assert connection.get_model_metadata("seefood")["inputs"][0]["datatype"] == "BYTES"
    with pytest.raises(library.InferenceServerException, match="there is no model 'other'") as error:
        connection.get_model_metadata("other")
    assert error.value.status() == "404"


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("in_binary", [True, False])
@pytest.mark.parametrize("out_binary", [True, False, None])
def test_triton_infers(triton, photos, expected, number, in_binary, out_binary):
    library, connection = triton
    elements = photos[:number] if in_binary else [base64.b64encode(photo) for photo in photos[:number]]
    given = library.InferInput("image", [number], "BYTES")
    given.set_data_from_numpy(np.array(elements, dtype=np.object_), binary_data=in_binary)
    names = ("label", "probability", "index", "sure")
    wanted = None if out_binary is None else [library.InferRequestedOutput(name, binary_data=out_binary) for name in names]
    result = connection.infer("seefood", [given], outputs=wanted, request_id="7", parameters={"top_k": 3})
    found = [[label.decode() if isinstance(label, bytes) else label for label in row] for row in result.as_numpy("label")]
    assert found == [labels(answer)[:3] for answer in expected[:number]]
    best = [answer["predictions"][0] for answer in expected[:number]]
    assert result.as_numpy("probability")[:, 0] == pytest.approx([one["probability"] for one in best], abs=1e-3)
    assert result.as_numpy("index")[:, 0].tolist() == [one["index"] for one in best]
    assert result.as_numpy("sure").tolist() == [answer["sure"] for answer in expected[:number]]
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_triton_compresses_its_request(triton, photos, expected, algorithm):
    library, connection = triton
    given = library.InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array(photos[:1], dtype=np.object_))
    result = connection.infer("seefood", [given], request_compression_algorithm=algorithm)
    assert result.as_numpy("label")[0, 0].decode() == labels(expected[0])[0]


def test_triton_gets_the_reason_of_an_error(triton):
    library, connection = triton
    given = library.InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"no photo"], dtype=np.object_))
    with pytest.raises(library.InferenceServerException, match="JPEG") as error:
        connection.infer("seefood", [given])
    assert error.value.status() == "415"
    with pytest.raises(library.InferenceServerException, match="there is no model"):
        connection.infer("other", [given])
