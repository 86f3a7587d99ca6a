"""The door and programs that people have: curl with HTTP/1.0, ab without keep-alive, nginx with its defaults in front."""

import os
import re
import shutil
import subprocess

import httpx
import pytest

from tests.conftest import LIMIT_S, free_port
from tests.serving.server import status_of
from tests.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.slow]

# Debian's package as it is configured without a word: HTTP/1.0 and Connection: close to the server behind
NGINX = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_max_body_size 64m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
  scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://127.0.0.1:{behind}; }} }}
}}
"""


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture
def photo_file(photo, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    return path


@needs("curl")
@pytest.mark.parametrize("version", ["-0", "--http1.1"])
def test_curl_reads_to_the_end(server, photo_file, version):
    done = subprocess.run(["curl", "-si", version, server.url, "-T", photo_file], capture_output=True, text=True, timeout=LIMIT_S)
    assert re.search(r"^HTTP/1\.1 200 ", done.stdout, re.MULTILINE)
    assert ("connection: close" in done.stdout) == (version == "-0")


@needs("ab")
@pytest.mark.parametrize("options", [[], ["-k"]], ids=["a connection for each", "keep-alive"])
def test_apache_bench_sees_no_failure(server, photo_file, options):
    command = ["ab", *options, "-n", "200", "-c", "8", "-l", "-T", "image/jpeg", "-p", photo_file, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert re.search(r"Complete requests:\s+200\n", done.stdout)
    assert re.search(r"Failed requests:\s+0\n", done.stdout)
    assert "Non-2xx" not in done.stdout


@pytest.fixture
def nginx(server, tmp_path):
    """nginx in front of the door: its address."""
    front = free_port()
    path = tmp_path / "nginx.conf"
    path.write_text(NGINX.format(user="user root;" if os.geteuid() == 0 else "", folder=tmp_path, front=front, behind=server.port))
    process = subprocess.Popen(["nginx", "-c", path, "-e", tmp_path / "start.log"])
    try:
        until(lambda: status_of(f"http://127.0.0.1:{front}/livez"), (tmp_path / "start.log").read_text, process)
        yield f"http://127.0.0.1:{front}"
    finally:
        process.terminate()
        process.wait(LIMIT_S)


@needs("nginx")
def test_statuses_come_through_nginx(server, photo, nginx):
    url = f"{nginx}/predictions/seefood"
    large = photo + bytes(31_000_000)
    for content, status in ((photo, 200), (b"no photo", 415), (large, 413), (large[:25_000_000], 413), (photo, 200)):
        answer = httpx.post(url, content=content, timeout=LIMIT_S)
        assert answer.status_code == status
        if status != 200:
            assert answer.json()["code"] == status
    assert httpx.get(f"{nginx}/readyz", timeout=LIMIT_S).status_code == 200
