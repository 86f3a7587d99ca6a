"""What people say that a photo shows: kept beside the photo, once for each, or refused with what was expected."""

import asyncio
import base64
import contextlib
import http.client
import json
import os
import shutil

import httpx
import pytest

from handler.capture import Capture
from handler.captured import ANSWER, FEEDBACK, PHOTO, answer_of, captured_photos
from scripts.door.access.guard import Access
from scripts.door.access.keys import new_key
from scripts.door.access.rates import RateLimits
from scripts.door.feedback import MAX_BYTES, Feedback
from scripts.door.state import State
from tests.conftest import LIMIT_S, picture_bytes
from tests.door.asking import ask
from tests.door.without_server import application
from tests.serving.server import capturing_starter, serving_starter

LABELS = ["pho", "ramen", "spring_rolls"]
ANSWERED = {
    "predictions": [{"label": "pho", "index": 0, "probability": 0.7}],
    "sure": True,
    "model": "seefood",
    "version": "1.0.0",
    "labels": LABELS,
}
DISH = picture_bytes(0, (16, 12), "PNG")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a photo that was answered as "abc"."""
    for name, value in {"SHARE": 1, "DIR": tmp_path / "captured", "BYTES": 10**9, "AGE_S": 3600}.items():
        monkeypatch.setenv(f"SEEFOOD_CAPTURE_{name}", str(value))
    assert Capture()(DISH, "abc", ANSWERED)
    return tmp_path / "captured"


def app_of(folder, access=None):
    return application(State(), access, Feedback(folder, 3600))


def give(app, content, **options):
    """The answer to this feedback."""
    return ask(app, "POST", "/feedback", json=content, **options)


def kept_in(folder):
    paths = sorted(folder.rglob(f"*{FEEDBACK}"), key=lambda path: path.name)
    return [json.loads(path.read_text()) for path in paths]


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("label", ["ramen", "pho", None])
def test_feedback_is_kept_beside_its_photo_for_this_user_alone(folder, label):
    answer = give(app_of(folder), {"id": "abc", "label": label})
    assert answer.status_code == 200
    kept = answer.json()
    assert kept == {"id": "abc", "label": label, "at": kept["at"], "model": "seefood", "version": "1.0.0"}
    assert kept_in(folder) == [kept]
    files = [answer_of(folder, "abc").with_suffix(end) for end in (PHOTO, ANSWER, FEEDBACK)]
    assert files_in(folder) == set(files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_one_can_correct_oneself_and_the_last_answer_with_an_id_is_meant(folder):
    app = app_of(folder)
    give(app, {"id": "abc", "label": "ramen"})
    give(app, {"id": "abc", "label": None})
    assert [kept["label"] for kept in kept_in(folder)] == [None]
    assert Capture()(DISH, "abc", ANSWERED | {"version": "1.1.0"})
    give(app, {"id": "abc", "label": "pho"})
    assert [(kept["version"], kept["label"]) for kept in kept_in(folder)] == [("1.0.0", None), ("1.1.0", "pho")]


@pytest.mark.parametrize("request_id", ["abd", "ab", "ABC", "abc ", "../captured/abc", "*", "\ud800", "a" * 3000, "abc/0"])
def test_answer_that_was_not_kept_is_a_404(folder, request_id):
    answer = ask(
        app_of(folder),
        *("POST", "/feedback"),
        content=json.dumps({"id": request_id, "label": "pho"}),
        headers={"content-type": "application/json"},
    )
    assert (answer.status_code, answer.json()["type"]) == (404, "NotFoundError")
    assert not kept_in(folder)


def test_photo_of_an_earlier_version_has_no_answer_to_correct(tmp_path):
    (tmp_path / "1700000000000000000-4711.photo").write_bytes(DISH)
    assert give(app_of(tmp_path), {"id": "4711", "label": "pho"}).status_code == 404
    assert list(captured_photos(tmp_path)) == [DISH]


@pytest.mark.parametrize("gone", [(ANSWER,), (PHOTO,), (PHOTO, ANSWER), "folder"])
def test_photo_that_is_removed_meanwhile_is_a_404_and_leaves_nothing(folder, gone):
    path = answer_of(folder, "abc")
    for end in gone if gone != "folder" else ():
        path.with_suffix(end).unlink()
    if gone == "folder":
        shutil.rmtree(folder)
    assert give(app_of(folder), {"id": "abc", "label": "pho"}).status_code == 404
    assert not folder.exists() or not kept_in(folder)


def test_answer_that_was_cut_off_when_the_machine_went_down_is_a_404(folder):
    answer_of(folder, "abc").write_text('{"id": "ab')
    assert give(app_of(folder), {"id": "abc", "label": "pho"}).status_code == 404


@pytest.mark.parametrize(
    ("label", "close"),
    [
        ("ramenn", "'ramen'"),
        ("Ramen", "'ramen'"),
        ("spring rolls", "'spring_rolls'"),
        ("zzz", "'pho'"),
        ("", "'pho'"),
        ("x" * 3000, "'pho'"),
    ],
)
def test_label_that_the_version_has_not_is_refused_with_close_ones(folder, label, close):
    answer = give(app_of(folder), {"id": "abc", "label": label})
    assert answer.status_code == 422
    assert "expected one of the 3 classes of seefood 1.0.0, e.g. " in answer.json()["message"]
    assert close in answer.json()["message"]
    assert not kept_in(folder)


NONSENSE = [
    *(b"", b"[", b"null", b"[]", b'"abc"', b"{}", b"\xff", b'{"id": "abc"}', b'{"label": "pho"}', b"[" * 4000),
    *(b'{"id": "abc", "label": "pho", "more": 1}', b'{"id": "", "label": "pho"}', b'{"id": 1, "label": "pho"}'),
    *(
        b'{"id": null, "label": "pho"}',
        b'{"id": "abc", "label": 1}',
        b'{"id": "abc", "label": ["pho"]}',
        b'{"id": "abc", "label": false}',
    ),
]
AS_JSON = {"content-type": "application/json; charset=utf-8"}


@pytest.mark.parametrize("body", NONSENSE)
def test_what_is_no_feedback_is_a_400_that_shows_what_was_expected(folder, body):
    answer = ask(app_of(folder), "POST", "/feedback", content=body, headers={**AS_JSON, "content-length": str(len(body))})
    assert answer.status_code == 400
    assert 'expected {"id": ' in answer.json()["message"]
    assert not kept_in(folder)


@pytest.mark.parametrize(
    ("status", "method", "options"),
    [
        (405, "GET", {}),
        (405, "PUT", {"json": {}}),
        (405, "DELETE", {}),
        (413, "POST", {"content": b" " * (MAX_BYTES + 1), "headers": AS_JSON}),
        (413, "POST", {"content": iter([b" " * MAX_BYTES, b" "]), "headers": AS_JSON}),
        (415, "POST", {"content": b"{}"}),
        (415, "POST", {"data": {"id": "abc", "label": "pho"}}),
        (415, "POST", {"content": b"{}", "headers": {"content-type": "text/plain"}}),
        (415, "POST", {"content": b"{}", "headers": {**AS_JSON, "content-encoding": "gzip"}}),
    ],
)
def test_other_requests_are_refused(folder, status, method, options):
    if status == 413 and not isinstance(options["content"], bytes):
        options = {**options, "content": chunks(options["content"])}
    assert ask(app_of(folder), method, "/feedback", **options).status_code == status


async def chunks(parts):
    for part in parts:
        yield part


def test_without_kept_photos_there_is_no_feedback(folder):
    answer = give(application(State()), {"id": "abc", "label": "pho"})
    assert answer.status_code == 404
    assert "SEEFOOD_CAPTURE_SHARE=1" in answer.json()["message"]


@pytest.mark.slow
def test_thousand_at_once_are_kept_each_once(folder):
    keep, app = Capture(), app_of(folder)
    for number in range(1000):
        keep(DISH, f"id-{number}", ANSWERED)

    async def all_at_once():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door", trust_env=False) as client:
            given = [{"id": f"id-{number}", "label": LABELS[number % 3]} for number in range(1000)]
            return await asyncio.gather(*(client.post("/feedback", json=one) for one in given))

    assert {answer.status_code for answer in asyncio.run(all_at_once())} == {200}
    assert sorted((kept["id"], kept["label"]) for kept in kept_in(folder)) == sorted(
        (f"id-{number}", LABELS[number % 3]) for number in range(1000)
    )
    assert not list(folder.rglob("*.part"))


def test_disk_that_hangs_holds_up_nothing_else(folder):
    app, path = app_of(folder), answer_of(folder, "abc")
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # read only once somebody writes

    async def slow():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door", trust_env=False) as client:
            waiting = asyncio.ensure_future(client.post("/feedback", json={"id": "abc", "label": "ramen"}))
            for _ in range(20):
                assert (await client.get("/livez")).status_code == 200
            assert not waiting.done()
            await asyncio.to_thread(path.write_bytes, content)
            return await waiting

    assert asyncio.run(slow()).status_code == 200
    assert [kept["label"] for kept in kept_in(folder)] == ["ramen"]


def fill(path):
    """Write until there is no room."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_full_disk_is_said_and_what_was_kept_before_stays(mount_disk, folder):
    files = {path: path.read_bytes() for path in files_in(folder)}
    mount_disk(folder, "256k")
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    app = app_of(folder)
    assert give(app, {"id": "abc", "label": "pho"}).status_code == 200
    fill(folder / "full")
    before = files_in(folder)
    answer = give(app, {"id": "abc", "label": "ramen"})
    assert (answer.status_code, answer.json()["type"]) == (507, "StorageError")
    assert "the disk is full" in answer.json()["message"]
    assert [kept["label"] for kept in kept_in(folder)] == ["pho"]
    assert files_in(folder) == before


def test_keys_rates_and_origins_hold_for_feedback_too(folder, tmp_path):
    key, line = new_key("kitchen")
    (tmp_path / "keys").write_text(line + "\n")
    app = app_of(folder, Access(tmp_path / "keys", ("https://app.example.org",), RateLimits(per_address=0.5)))
    given, origin = {"id": "abc", "label": "pho"}, {"origin": "https://app.example.org"}
    assert give(app, given, peer="192.0.2.9").status_code == 401
    answer = give(app, given, headers={"x-api-key": key, **origin})
    assert answer.status_code == 200
    assert "seefood-captured" in answer.headers["access-control-expose-headers"]
    statuses = [give(app, given, headers={"x-api-key": key}).status_code for _ in range(20)]
    assert statuses[-1] == 429
    asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key"}
    assert ask(app, "OPTIONS", "/feedback", headers=asked, peer="192.0.2.7").status_code == 200


def test_feedback_is_counted_and_is_no_photo(folder):
    app = app_of(folder)
    for request_id in ("abc", "abd"):
        give(app, {"id": request_id, "label": "pho"})
    answer_of(folder, "abc").with_suffix(FEEDBACK).unlink()
    answer_of(folder, "abc").with_suffix(FEEDBACK).mkdir()
    assert give(app, {"id": "abc", "label": "pho"}).status_code == 507
    text = app.app.door.metrics.text().decode()
    for status in (200, 404, 507):
        assert f'seefood_door_requests_total{{route="/feedback",status="{status}"}} 1.0' in text
    assert 'seefood_door_outcomes_total{cause="",outcome="answered"} 0.0' in text
    assert "StorageError" not in text


# --- with a real server ---


@pytest.fixture(scope="module")
def capturing(tmp_path_factory):
    with capturing_starter(tmp_path_factory) as found:
        yield found


REAL = [pytest.mark.server, pytest.mark.slow]
MODEL = "/v1/models/seefood"


def client_of(server):
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=LIMIT_S, trust_env=False)


class TestRealServer:
    pytestmark = REAL

    def test_answer_says_that_its_photo_is_kept_and_its_id_is_known_then(self, capturing, photo):
        server, folder = capturing
        with client_of(server) as client:
            answer = client.post("/predictions/seefood", content=photo)
            request_id = answer.headers["x-request-id"]
            assert (answer.headers["seefood-captured"], answer.headers["seefood-captured-s"]) == ("1", "86400")
            labels = client.get("/v2/models/seefood/versions/0.5.0").json()["parameters"]["labels"]
            assert len(labels) == 10
            kept = client.post("/feedback", json={"id": request_id, "label": labels[3]})
            assert kept.status_code == 200, kept.text
            path = answer_of(folder, request_id)
            assert json.loads(path.read_text())["predictions"] == answer.json()["predictions"]
            assert json.loads(path.with_suffix(FEEDBACK).read_text()) == kept.json()
            assert {one.stat().st_mode & 0o777 for one in files_in(folder)} == {0o600}
            assert {one.stat().st_mode & 0o777 for one in (folder, path.parent)} == {0o700}
            assert "seefood-captured" not in client.post("/explanations/seefood", content=photo).headers

    @pytest.mark.parametrize("request_id", ["!#$%&'*+-.^_`|~", "." * 128, "..", "a.photo"])
    def test_any_id_that_a_client_may_choose(self, capturing, photo, request_id):
        server, folder = capturing
        with client_of(server) as client:
            answer = client.post("/predictions/seefood", content=photo, headers={"x-request-id": request_id})
            assert answer.headers["x-request-id"] == request_id
            assert client.post("/feedback", json={"id": request_id, "label": None}).status_code == 200
        assert answer_of(folder, request_id).with_suffix(FEEDBACK).exists()

    def test_each_of_several_photos_has_its_number(self, capturing, photo):
        server, _ = capturing
        tiff = picture_bytes(1, image_format="TIFF")  # cannot be stripped, and so is not kept
        tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [in_base64(photo), in_base64(tiff)]}
        with client_of(server) as client:
            for name, path, body in (
                ("one", f"{MODEL}:predict", {"instances": [in_base64(photo), in_base64(tiff)]}),
                ("two", "/v2/models/seefood/infer", {"inputs": [tensor]}),
                ("three", "/invocations", {"instances": [in_base64(photo), in_base64(tiff)]}),
            ):
                answer = client.post(path, json=body, headers={"x-request-id": name})
                assert (answer.status_code, answer.headers["seefood-captured"]) == (200, "1, 0")
                given = [
                    client.post("/feedback", json={"id": f"{name}{end}", "label": None}).status_code for end in ("/0", "/1", "")
                ]
                assert given == [200, 404, 404]
            assert "seefood-captured" not in client.post("/predictions/seefood", content=tiff).headers
            alone = client.post("/invocations", content=photo, headers={"x-request-id": "four"})
            assert alone.headers["seefood-captured"] == "1"
            assert client.post("/feedback", json={"id": "four", "label": None}).status_code == 200

    def test_request_without_a_body_is_a_411(self, capturing):
        connection = http.client.HTTPConnection("127.0.0.1", capturing[0].port, timeout=LIMIT_S)
        connection.putrequest("POST", "/feedback")
        connection.endheaders()
        assert connection.getresponse().status == 411
        connection.close()

    def test_what_is_kept_stays_when_the_server_is_started_again(self, capturing, photo, tmp_path):
        server, folder = capturing
        with client_of(server) as client:
            request_id = client.post("/predictions/seefood", content=photo).headers["x-request-id"]
            before = files_in(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SEEFOOD_CAPTURE_SHARE", "1")
            patch.setenv("SEEFOOD_CAPTURE_DIR", str(folder))
            with serving_starter(tmp_path) as again, client_of(again) as client:
                assert client.post("/feedback", json={"id": request_id, "label": None}).status_code == 200
                # the folder is pruned at each pass
                again.wait_output("reconciled")
        assert before < files_in(folder)


def in_base64(photo):
    return base64.b64encode(photo).decode()
