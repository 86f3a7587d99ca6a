"""Captured photos on S3: copied while nobody waits, lost only within the bounds, with feedback from whichever instance gets it."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from handler.capture import Capture
from handler.captured import ANSWER, FEEDBACK, PHOTO, answer_of, key_of, prune
from scripts.door.errors import DoorError
from scripts.door.feedback import Feedback
from scripts.door.state import State
from scripts.release.store import DeniedError, StoreError
from scripts.serving.capture_store import CaptureStore
from scripts.serving.capture_uploads import CaptureUploads
from scripts.settings import Settings
from scripts.steps import Steps
from tests.conftest import LIMIT_S, ROOT, picture_bytes
from tests.door.asking import ask
from tests.door.without_server import application
from tests.ecs.scripted_aws import moto_server, outside
from tests.serving.server import serving_starter
from tests.waiting import until

ADDRESS = "s3://photos/seefood/captured"
DISH = picture_bytes(0, (16, 12), "PNG")
ANSWERED = {"predictions": [], "sure": True, "model": "seefood", "version": "1.0.0", "labels": ["pho", "ramen"]}
QUICK = Settings(capture_share=1, capture_dir=ADDRESS, s3_connect_timeout_s=1, s3_read_timeout_s=5)


@pytest.fixture
def s3():
    with moto_server():
        client = outside("s3")
        client.create_bucket(Bucket="photos", CreateBucketConfiguration={"LocationConstraint": client.meta.region_name})
        yield client


@pytest.fixture
def capture(tmp_path, monkeypatch):
    """Has the worker of an instance keep photos with these ids."""

    def keep(instance, *ids):
        settings = {"SHARE": 1, "DIR": tmp_path / instance / "captured", "BYTES": 10**9, "AGE_S": 3600}
        for name, value in settings.items():
            monkeypatch.setenv(f"SEEFOOD_CAPTURE_{name}", str(value))
        (tmp_path / instance).mkdir(exist_ok=True)
        kept = Capture()
        for one in ids:
            assert kept(DISH, one, ANSWERED)
        return tmp_path / instance / "captured"

    return keep


def name_of(path) -> str:
    """The object that a file of the folder becomes."""
    time_ns, key = path.stem.split("-")
    return f"seefood/captured/{path.parent.name}/{key}-{time_ns}{path.suffix}"


def uploads(tmp_path, instance, settings=QUICK) -> CaptureUploads:
    (tmp_path / instance).mkdir(exist_ok=True)
    return CaptureUploads.of(settings, tmp_path / instance, Steps(False))


def names(s3) -> set[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="photos")
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def feedback(s3) -> list[dict[str, Any]]:
    keys = sorted(key for key in names(s3) if key.endswith(FEEDBACK))
    return [json.loads(s3.get_object(Bucket="photos", Key=key)["Body"].read()) for key in keys]


@contextlib.contextmanager
def refusing(code: str, status: int = 403) -> Iterator[str]:
    """The address of an S3 that refuses every call with this code."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self):
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_HEAD = do_GET  # noqa: N815 - the base class's names

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_photos_and_answers_are_named_by_id_then_time(tmp_path, s3, capture):
    folder = capture("one", "abc", "xyz")
    with uploads(tmp_path, "one") as copying:
        until(lambda: copying.copied == 2)
        capture("one", "later")
    # the end waits for what is not copied yet
    files = {name_of(path) for path in folder.rglob("*") if path.is_file()}
    assert len(files) == 6
    assert names(s3) == files


def test_what_is_there_already_is_not_written_again(tmp_path, s3, capture):
    folder = capture("one", "abc")
    assert uploads(tmp_path, "one").copy()
    key = name_of(answer_of(folder, "abc"))
    before = s3.head_object(Bucket="photos", Key=key)["LastModified"]
    again = uploads(tmp_path, "one")
    assert again.copy()
    assert (again.waiting, again.copied) == (set(), 0)
    assert s3.head_object(Bucket="photos", Key=key)["LastModified"] == before


@pytest.mark.slow
def test_with_s3_away_the_oldest_go_counted_and_logged_once_and_the_rest_arrives_later(tmp_path, s3, capture, monkeypatch, capsys):
    folder = capture("one", *"abcdef")
    copying = uploads(tmp_path, "one")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        away = uploads(tmp_path, "one")
        assert not away.copy()
        assert not away.copy()
        bytes_of_two = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 3 + 1
        prune(folder, int(bytes_of_two), 3600)
        assert not away.copy()
        prune(folder, int(bytes_of_two / 2), 3600)
        assert not away.copy()
    assert (away.lost, away.copied, len(away.waiting)) == (5, 0, 1)
    printed = capsys.readouterr().out
    assert printed.count("they wait on this machine") == printed.count("captured photos are lost") == 1
    assert copying.copy()
    assert len(names(s3)) == 2
    assert answer_of(folder, "f") is not None


def app_of(copying: CaptureUploads):
    return application(State(), None, Feedback(copying.folder, 3600, copying.socket))


@pytest.mark.parametrize("uploaded", [True, False])
def test_feedback_is_kept_by_the_instance_that_answered_before_and_after_the_photo_is_copied(tmp_path, s3, capture, uploaded):
    folder = capture("one", "abc")
    copying = uploads(tmp_path, "one")
    with copying:
        if uploaded:
            until(lambda: copying.copied == 1)
        answer = ask(app_of(copying), "POST", "/feedback", json={"id": "abc", "label": "ramen"})
    assert answer.status_code == 200
    assert feedback(s3) == [answer.json()]
    assert names(s3) == {name_of(answer_of(folder, "abc").with_suffix(end)) for end in (PHOTO, ANSWER, FEEDBACK)}
    assert not list(folder.rglob(f"*{FEEDBACK}"))


@pytest.mark.slow
def test_feedback_through_any_instance_a_thousand_at_once_none_lost_none_twice(tmp_path, s3, capture):
    ids = [f"id-{number}" for number in range(500)]
    capture("one", *ids)
    assert uploads(tmp_path, "one").copy()
    two, three = uploads(tmp_path, "two"), uploads(tmp_path, "three")
    with two, three:
        apps = [app_of(two), app_of(three)]

        async def give_all():
            clients = [
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door", timeout=LIMIT_S) for app in apps
            ]
            given = [client.post("/feedback", json={"id": one, "label": "pho"}) for one in ids for client in clients]
            return await asyncio.gather(*given)

        answers = asyncio.run(give_all())
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(kept["id"] for kept in feedback(s3)) == sorted(ids)


@pytest.mark.server
@pytest.mark.slow
def test_thousand_feedbacks_at_once_through_a_real_server_none_lost_none_twice(tmp_path, s3, monkeypatch):
    monkeypatch.setenv("SEEFOOD_CAPTURE_SHARE", "1")
    monkeypatch.setenv("SEEFOOD_CAPTURE_DIR", ADDRESS)
    ids = [f"id-{number}" for number in range(1000)]

    async def ask_all(server):
        limits = httpx.Limits(max_connections=500, max_keepalive_connections=500)
        address = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=address, timeout=LIMIT_S, limits=limits, trust_env=False) as client:
            label = (await client.get("/v2/models/seefood/versions/0.5.0")).json()["parameters"]["labels"][0]
            one_by_one = asyncio.Semaphore(4)

            async def answer(one):
                async with one_by_one:
                    return await client.post("/predictions/seefood", content=DISH, headers={"x-request-id": one})

            photos = await asyncio.gather(*map(answer, ids))
            assert {(photo.status_code, photo.headers.get("seefood-captured")) for photo in photos} == {(200, "1")}
            # some of the photos are copied by then, and some are not
            given = [client.post("/feedback", json={"id": one, "label": label}) for one in ids]
            return await asyncio.gather(*given)

    with serving_starter(tmp_path) as server:
        answers = asyncio.run(ask_all(server))
        assert {answer.status_code for answer in answers} == {200}
        until(lambda: sum(name.endswith(FEEDBACK) for name in names(s3)) == len(ids))
    assert sorted(kept["id"] for kept in feedback(s3)) == sorted(ids)
    assert {len([name for name in names(s3) if name.endswith(end)]) for end in (PHOTO, ANSWER, FEEDBACK)} == {len(ids)}


def calls_of(store) -> list[str]:
    """The calls that a store makes from now on."""
    made: list[str] = []
    store.check()
    store._client.meta.events.register("before-call.s3", lambda model, **_: made.append(model.name))
    return made


def test_unknown_id_takes_one_call_however_many_photos_there_are_and_none_when_asked_again_at_once(s3):
    key, store = key_of("unknown"), CaptureStore(ADDRESS, QUICK)
    for number in range(30):  # beside it, in the same of the 256 places
        s3.put_object(Bucket="photos", Key=f"seefood/captured/{key[:2]}/{key[:2]}{number:030x}-{number:019}{ANSWER}", Body=b"{}")
    made = calls_of(store)
    for _ in range(5):
        with pytest.raises(DoorError, match="no photo is kept") as refused:
            store.keep("unknown", "pho", None, None)
        assert refused.value.status == 404
    assert made == ["ListObjectsV2"]


def test_photo_that_another_instance_copies_after_a_404_is_found(tmp_path, s3, capture):
    store = CaptureStore(ADDRESS, QUICK)
    capture("one", "abc")

    def found() -> bool:
        with contextlib.suppress(DoorError):
            return store.keep("abc", "pho", None, None)["label"] == "pho"
        return False

    assert not found()
    assert uploads(tmp_path, "one").copy()
    until(found)


def test_last_answer_with_an_id_is_meant(tmp_path, s3, capture):
    folder = capture("one", "abc", "abc", "abc")
    assert uploads(tmp_path, "one").copy()
    CaptureStore(ADDRESS, QUICK).keep("abc", "pho", None, None)
    assert {name for name in names(s3) if name.endswith(FEEDBACK)} == {name_of(answer_of(folder, "abc").with_suffix(FEEDBACK))}


def test_same_feedback_again_changes_nothing_and_another_label_takes_its_place(tmp_path, s3, capture):
    capture("one", "abc")
    s3.put_bucket_versioning(Bucket="photos", VersioningConfiguration={"Status": "Enabled"})
    assert uploads(tmp_path, "one").copy()
    store = CaptureStore(ADDRESS, QUICK)
    first = store.keep("abc", "pho", None, None)
    assert store.keep("abc", "pho", None, None) == first
    versions = s3.list_object_versions(Bucket="photos")["Versions"]
    assert sum(version["Key"].endswith(FEEDBACK) for version in versions) == 1
    store.keep("abc", None, None, None)
    assert [kept["label"] for kept in feedback(s3)] == [None]


@pytest.mark.parametrize("end", [PHOTO, ANSWER])
def test_feedback_is_never_on_s3_before_its_photo(tmp_path, s3, capture, monkeypatch, end):
    capture("one", "abc")
    copying = uploads(tmp_path, "one")
    put = copying.store.put

    def away(place, path):
        if place.endswith(end):
            raise StoreError("away")
        return put(place, path)

    monkeypatch.setattr(copying.store, "put", away)
    monkeypatch.setattr("scripts.serving.capture_uploads.LAST_S", 0)
    with copying:
        assert ask(app_of(copying), "POST", "/feedback", json={"id": "abc", "label": "pho"}).status_code == 503
        assert not feedback(s3)
        monkeypatch.setattr(copying.store, "put", put)
        assert ask(app_of(copying), "POST", "/feedback", json={"id": "abc", "label": "pho"}).status_code == 200
    assert len(names(s3)) == 3


@contextlib.contextmanager
def hanging() -> Iterator[str]:
    """The address of an S3 that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_end_does_not_wait_for_an_s3_that_hangs_and_the_next_start_copies_what_was_left(tmp_path, s3, capture):
    ids = [f"id-{number}" for number in range(40)]
    folder = capture("one", *ids)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # in a process of its own: at its end the interpreter waits for threads that are no daemons
    with hanging() as url:
        program = (
            "from pathlib import Path; from scripts.serving import capture_uploads as u; from scripts.settings import Settings\n"
            "from scripts.steps import Steps; import sys; u.LAST_S = 0.5\n"
            f"s = Settings(capture_share=1, capture_dir={ADDRESS!r}, s3_connect_timeout_s=60, s3_read_timeout_s=600)\n"
            "with u.CaptureUploads.of(s, Path(sys.argv[1]), Steps(False)): print('open', flush=True); sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "one")]
        environment = {**os.environ, "AWS_ENDPOINT_URL": url}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdout.readline() == "open\n"
            process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    again = uploads(tmp_path, "one")
    assert again.copy()
    assert (again.copied, len(names(s3))) == (40, 80)


def rule(days, prefix="seefood/captured/", **more) -> dict[str, Any]:
    return {"ID": f"{days}-{prefix}", "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": days}} | more


@pytest.mark.parametrize(
    ("rules", "days"),
    [
        ([], None),
        ([rule(30)], 30),
        ([rule(30, "seefood/"), rule(7, "others/")], 30),
        ([rule(30), rule(7, "")], 7),
        ([rule(30, Status="Disabled")], None),
        ([rule(30, Filter={"And": {"Prefix": "seefood/", "Tags": [{"Key": "a", "Value": "b"}]}})], None),
        ([rule(30, "seefood/captured/ab/")], None),
    ],
)
def test_how_long_photos_are_kept_is_what_the_buckets_rules_say(tmp_path, s3, capture, rules, days):
    if rules:
        s3.put_bucket_lifecycle_configuration(Bucket="photos", LifecycleConfiguration={"Rules": rules})
    assert CaptureStore(ADDRESS, QUICK).kept_s() == (days and days * 86400)
    state, one = State(), uploads(tmp_path, "one")
    one._read_rules()
    state.take({"live": True, "ready": True, "models": {}, "captured_s": one.kept_s})
    headers = dict(Feedback(one.folder, 86400, one.socket).headers({0: True}, state.captured_s))
    assert headers == {b"seefood-captured": b"1"} | ({b"seefood-captured-s": b"%d" % (days * 86400)} if days else {})


@pytest.mark.parametrize(("content", "status"), [({"id": "unknown", "label": "pho"}, 404), ({"id": "abc", "label": "sushi"}, 422)])
def test_unknown_answers_and_labels_are_refused_as_with_a_folder(tmp_path, s3, capture, content, status):
    capture("one", "abc")
    assert uploads(tmp_path, "one").copy()
    copying = uploads(tmp_path, "two")
    with copying:
        assert ask(app_of(copying), "POST", "/feedback", json=content).status_code == status
    assert not feedback(s3)


@pytest.mark.slow
def test_feedback_while_s3_is_away_may_be_given_again_later(tmp_path, capture, s3, monkeypatch):
    capture("one", "abc")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("scripts.serving.capture_uploads.LAST_S", 0)
    copying = uploads(tmp_path, "one")
    with copying:
        answer = ask(app_of(copying), "POST", "/feedback", json={"id": "abc", "label": "pho"})
    assert (answer.status_code, answer.json()["type"]) == (503, "StorageError")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("address", ["s3://", "s3:///prefix", "s3://photos?x"])
def test_address_without_a_bucket_is_refused(tmp_path, address):
    with pytest.raises(ValueError, match="expected a folder or s3://bucket/prefix"):
        uploads(tmp_path, "one", Settings(capture_share=1, capture_dir=address))


def test_check_finds_nothing_and_writes_nothing_where_all_is_right(s3):
    CaptureStore(ADDRESS, QUICK).check()
    assert not names(s3)


def test_missing_bucket_is_named(s3):
    with pytest.raises(StoreError, match="there is no bucket 'others': make it, or correct SEEFOOD_CAPTURE_DIR"):
        CaptureStore("s3://others/captured", QUICK).check()


@pytest.mark.parametrize(
    ("code", "reason"),
    [("AccessDenied", "s3:ListBucket is denied .*: allow it"), ("ExpiredToken", "have expired or are wrong .ExpiredToken.: renew")],
)
def test_missing_right_and_expired_credentials_are_one_clear_line_at_the_start(tmp_path, s3, monkeypatch, capsys, code, reason):
    with refusing(code) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(DeniedError, match=reason):
            CaptureStore(ADDRESS, QUICK).check()
        monkeypatch.setattr("scripts.serving.capture_uploads.LAST_S", 0)
        with uploads(tmp_path, "one"):
            pass
    assert capsys.readouterr().out.count("photos cannot be kept on S3 now") == 1
