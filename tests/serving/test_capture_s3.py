"""Captured photos on S3: copied while nobody waits, lost only within the bounds, with feedback from whichever instance gets it."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from handler.capture import Capture
from handler.captured import ANSWER, FEEDBACK, PHOTO, answer_of, prune
from scripts.door.feedback import Feedback
from scripts.door.state import State
from scripts.release.store import DeniedError, StoreError
from scripts.serving.capture_store import CaptureStore
from scripts.serving.capture_uploads import CaptureUploads
from scripts.settings import Settings
from scripts.steps import Steps
from tests.conftest import LIMIT_S, picture_bytes
from tests.door.asking import ask
from tests.door.without_server import application
from tests.ecs.scripted_aws import moto_server, outside

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


def uploads(tmp_path, instance, settings=QUICK) -> CaptureUploads:
    (tmp_path / instance).mkdir(exist_ok=True)
    return CaptureUploads.of(settings, tmp_path / instance, Steps(False))


def names(s3) -> set[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="photos")
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def feedback(s3) -> list[dict[str, Any]]:
    keys = sorted(key for key in names(s3) if key.endswith(FEEDBACK))
    return [json.loads(s3.get_object(Bucket="photos", Key=key)["Body"].read()) for key in keys]


def wait_for(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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


def test_photos_and_answers_get_the_names_that_they_have_in_the_folder(tmp_path, s3, capture):
    folder = capture("one", "abc", "xyz")
    with uploads(tmp_path, "one") as copying:
        wait_for(lambda: copying.copied == 2)
        capture("one", "later")
    # the end waits for what is not copied yet
    files = {f"seefood/captured/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    assert len(files) == 6
    assert names(s3) == files


def test_what_is_there_already_is_not_written_again(tmp_path, s3, capture):
    folder = capture("one", "abc")
    assert uploads(tmp_path, "one").copy()
    key = f"seefood/captured/{answer_of(folder, 'abc').relative_to(folder)}"
    before = s3.head_object(Bucket="photos", Key=key)["LastModified"]
    again = uploads(tmp_path, "one")
    assert again.copy()
    assert not again.waiting
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
            wait_for(lambda: copying.copied == 1)
        answer = ask(app_of(copying), "POST", "/feedback", json={"id": "abc", "label": "ramen"})
    assert answer.status_code == 200
    assert feedback(s3) == [answer.json()]
    place = answer_of(folder, "abc").relative_to(folder).with_suffix("")
    assert names(s3) == {f"seefood/captured/{place}{end}" for end in (PHOTO, ANSWER, FEEDBACK)}
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
