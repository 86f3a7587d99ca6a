"""Objects on S3: what is one object's fault, and what concerns all."""

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.stub import Stubber

from scripts.predict import bucket
from scripts.predict.bucket import StoredPhoto
from scripts.predict.photo import PredictError, UnreadError
from tests.conftest import free_port


@pytest.fixture
def client(monkeypatch):
    """The process's client, with an address where nothing answers."""
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(bucket, "PAUSES_S", (0.01, 0.01, 0.01))
    bucket.client.cache_clear()
    yield bucket.client
    bucket.client.cache_clear()


def refused(client, code):
    with Stubber(client()) as stub:
        stub.add_client_error("get_object", code)
        with pytest.raises(PredictError) as caught:
            StoredPhoto("photos", "a.jpg").read()
    return caught.value


@pytest.mark.parametrize(
    "code",
    ["NoSuchKey", "NoSuchBucket", "AccessDenied", "InvalidObjectState", "KeyTooLongError", "KMS.DisabledException", "404"],
)
def test_an_error_of_one_object_is_its_row(client, code):
    assert isinstance(refused(client, code), UnreadError)


@pytest.mark.parametrize(
    "code",
    [
        *("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidToken"),
        *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "503", "Unheard"),
    ],
)
def test_an_error_of_credentials_or_of_the_service_is_no_objects_fault(client, code):
    error = refused(client, code)
    assert not isinstance(error, UnreadError)
    assert code in str(error)


@pytest.mark.parametrize("name", ["My Bucket", "b*d"])
def test_a_bucket_that_cannot_be_is_the_rows_error(client, name):
    with pytest.raises(UnreadError, match="the object cannot be read: .*[Bb]ucket"):
        StoredPhoto(name, "a.jpg").read()


class BrokenOff(BaseHTTPRequestHandler):
    """Sends half a body, then closes the connection; `broken` counts down to the first whole one."""

    protocol_version = "HTTP/1.1"
    broken = 0

    def do_GET(self):
        kind = type(self)
        kind.broken -= 1
        self.send_response(200)
        self.send_header("content-length", "10")
        self.end_headers()
        self.wfile.write(b"0123456789" if kind.broken < 0 else b"01234")
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("broken", [2, 100])
def test_a_body_that_breaks_off_is_asked_for_again_a_few_times(client, monkeypatch, broken):
    monkeypatch.setattr(BrokenOff, "broken", broken)
    with ThreadingHTTPServer(("127.0.0.1", 0), BrokenOff) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            if broken == 2:
                assert StoredPhoto("photos", "a.jpg").read() == b"0123456789"
                return
            with pytest.raises(PredictError, match="s3://photos/a.jpg cannot be read to its end") as caught:
                StoredPhoto("photos", "a.jpg").read()
            assert not isinstance(caught.value, UnreadError)
        finally:
            server.shutdown()


def test_many_threads_make_one_client(client, monkeypatch):
    made, make = [], boto3.client
    monkeypatch.setattr(boto3, "client", lambda *arguments, **options: made.append(1) or make(*arguments, **options))
    barrier = threading.Barrier(8)

    def take(_):
        barrier.wait()
        with bucket.calls("s3://photos") as s3:
            return s3

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(take, range(8)))) == 1
    assert len(made) == 1
