"""Photos of strangers' servers: which addresses are asked, how politely, and within which bounds."""

import socket
import ssl
import subprocess
import time
from itertools import pairwise

import pytest

from scripts.collection.batch import finished, read_batch
from scripts.collection.web import addresses, connection
from scripts.collection.web.addresses import is_public, parse, resolve
from scripts.collection.web.client import AGENT, Web
from scripts.predict.photo import UnreadError
from scripts.settings import Settings
from tests.conftest import picture_bytes

JPEG = {"content-type": "image/jpeg"}
PHOTO = picture_bytes(1, (64, 48))
INTERVAL_S = 0.05


@pytest.fixture
def client():
    return Web(Settings(collect_private=True, collect_interval_s=INTERVAL_S, collect_timeout_s=1.0))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")),
        *((address, False) for address in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1")),
        *((address, False) for address in ("0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "192.88.99.1")),
        *(
            (address, False)
            for address in ("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1")
        ),
        *((address, False) for address in ("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1")),
        *((address, False) for address in ("2002:7f00:1::", "2001:0:7f00:1::", "64:ff9b:1::1")),
    ],
)
def test_addresses_of_the_public_internet_alone_are_asked(address, public):
    assert is_public(addresses.ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://localhost/"),
        *("http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/latest/meta-data", "http://localhost./"),
        *("http://[::ffff:a9fe:a9fe]/", "http://0/", "http://①②⑦.0.0.1/"),
    ],
)
def test_however_a_private_address_is_written_it_is_not_asked(url):
    with pytest.raises(UnreadError, match=r"not of the public internet|no address"):
        resolve(parse(url))


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://100.100.100.200/"]
)
def test_a_machines_credentials_are_never_asked_for(url):
    with pytest.raises(UnreadError, match="not of the public internet"):
        resolve(parse(url, private=True), private=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.org/a.jpg", "none of http:// or https://"),
        ("file:///etc/passwd", "none of http:// or https://"),
        ("//example.org/a", "none of http:// or https://"),
        ("http://", "with a host"),
        ("http://me:secret@example.org/", "holds a user's name"),
        ("http://example.org:22/", "the port is 22, expected 80 or 443"),
        ("http://example.org:99999/", "the address is none"),
        ("http://exa\tmple.org/", "control characters"),
        ("http://example.org\\@127.0.0.1/", "backslashes"),
        ("http://[::1/", "the address is none"),
        ("http://a..b/", "the address is none"),
        ("http://example.org/" + "a" * 5000, "5,019 characters, the limit is 4,096"),
    ],
)
def test_what_is_no_address_of_a_photo_is_refused(url, message):
    with pytest.raises(UnreadError, match=message):
        parse(url)


def test_a_url_is_asked_in_ascii():
    url = parse("https://Müller.example/süß foo.jpg?q=ä#here".replace(" ", "%20"))
    assert (url.host, url.target) == ("xn--mller-kva.example", "/s%C3%BC%C3%9F%20foo.jpg?q=%C3%A4")


def test_a_name_that_stands_for_another_address_a_moment_later_leads_nowhere_else(client, web, monkeypatch):
    """DNS rebinding: only the first answer is checked, so the connection must go there."""
    web.pages["/a.jpg"] = (200, JPEG, PHOTO)
    asked, real = [], socket.getaddrinfo

    def rebinding(host, *arguments, **options):
        if host == "rebind.test":
            asked.append(host)
            return real("127.0.0.1", *arguments, **options) if len(asked) < 3 else real("127.0.0.2", *arguments, **options)
        assert host == "127.0.0.1", f"the connection looks up {host} again"
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert client.photo(f"http://rebind.test:{web.server_port}/a.jpg") == PHOTO
    assert len(asked) == 2  # for robots.txt, for the photo


def test_each_hop_of_a_redirection_is_checked(client, web):
    web.pages |= {
        "/one": (302, {"location": "/two"}, b""),
        "/two": (301, {"location": f"{web.url}/a.jpg"}, b""),
        "/a.jpg": (200, JPEG, PHOTO),
        "/circle": (302, {"location": "/circle"}, b""),
        "/metadata": (302, {"location": "http://169.254.169.254/latest"}, b""),
        "/file": (302, {"location": "file:///etc/passwd"}, b""),
    }
    assert client.photo(f"{web.url}/one") == PHOTO
    for path, message in (("circle", "over 5 times"), ("metadata", "not of the public internet"), ("file", "none of http://")):
        with pytest.raises(UnreadError, match=message):
            client.photo(f"{web.url}/{path}")


def test_robots_txt_is_read_once_and_followed(client, web):
    web.pages |= {
        "/robots.txt": (200, {}, f"User-agent: {AGENT}\nDisallow: /private/\n\nUser-agent: *\nDisallow: /".encode()),
        "/a.jpg": (200, JPEG, PHOTO),
        "/private/b.jpg": (200, JPEG, PHOTO),
        "/there": (302, {"location": "/private/b.jpg"}, b""),
    }
    assert client.photo(f"{web.url}/a.jpg") == PHOTO
    for path in ("private/b.jpg", "there"):
        with pytest.raises(UnreadError, match="robots.txt of 127.0.0.1 does not allow it"):
            client.photo(f"{web.url}/{path}")
    assert web.asked == ["/robots.txt", "/a.jpg", "/there"]
    assert web.agents == {AGENT}


@pytest.mark.parametrize(("status", "asked"), [(404, True), (403, True), (500, False), (503, False)])
def test_a_robots_txt_that_cannot_be_had_for_a_fault_of_the_host_forbids_all(client, web, status, asked, monkeypatch):
    web.pages |= {"/robots.txt": (status, {"retry-after": "500"}, b""), "/a.jpg": (200, JPEG, PHOTO)}
    if asked:
        assert client.photo(f"{web.url}/a.jpg") == PHOTO
    else:
        with pytest.raises(UnreadError, match="robots.txt of 127.0.0.1 cannot be had"):
            client.photo(f"{web.url}/a.jpg")
    assert ("/a.jpg" in web.asked) is asked


def test_a_host_is_asked_at_intervals_and_by_its_crawl_delay(client, web):
    times = []

    def photo(request):
        times.append(time.monotonic())
        return 200, JPEG, PHOTO

    web.pages |= {"/a.jpg": photo, "/robots.txt": (200, {}, b"User-agent: *\nCrawl-delay: 1")}
    for _ in range(2):
        client.photo(f"{web.url}/a.jpg")
    assert times[1] - times[0] >= 0.9
    web.pages["/robots.txt"] = (404, {}, b"")
    quick, times[:] = Web(Settings(collect_private=True, collect_interval_s=INTERVAL_S)), []
    for _ in range(3):
        quick.photo(f"{web.url}/a.jpg")
    assert all(later - before >= INTERVAL_S * 0.9 for before, later in pairwise(times))


def test_a_busy_host_is_asked_again_when_it_wants_and_left_alone_when_that_is_long(client, web):
    answers = [(429, {"retry-after": "1"}, b""), (200, JPEG, PHOTO), (503, {"retry-after": "3600"}, b"")]
    web.pages["/a.jpg"] = lambda request: answers.pop(0)
    started = time.monotonic()
    assert client.photo(f"{web.url}/a.jpg") == PHOTO
    assert time.monotonic() - started >= 0.9
    for message in ("is busy .HTTP status 503", "wants to be asked later"):
        with pytest.raises(UnreadError, match=message) as caught:
            client.photo(f"{web.url}/a.jpg")
        assert caught.value.status == 503
    assert web.asked.count("/a.jpg") == 3


@pytest.fixture
def certified(web, tmp_path, monkeypatch):
    """The server with a certificate for the name kitchen.test, which this process trusts and finds on loopback, as other.test."""
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    names = ["-subj", "/CN=kitchen.test", "-addext", "subjectAltName=DNS:kitchen.test"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*command, *names, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    web.socket = context.wrap_socket(web.socket, server_side=True)
    monkeypatch.setattr(connection, "_tls", lambda: ssl.create_default_context(cafile=certificate))
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
    return web


def test_a_pinned_address_must_have_the_names_certificate(client, certified):
    certified.pages["/a.jpg"] = (200, JPEG, PHOTO)
    assert client.photo(f"https://kitchen.test:{certified.server_port}/a.jpg") == PHOTO
    with pytest.raises(UnreadError, match=r"robots.txt of other.test cannot be had"):
        client.photo(f"https://other.test:{certified.server_port}/a.jpg")


def endless(request):
    request.send_response(200)
    request.send_header("content-type", "image/jpeg")
    request.end_headers()
    try:
        while True:
            request.wfile.write(b"x" * 1_000_000)
    except OSError:
        return 200, {}, b""


def trickle(request, start=b"x: "):
    try:
        request.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\n" + start)
        while True:
            request.wfile.write(b"x")
            time.sleep(0.1)
    except OSError:
        return 200, {}, b""


@pytest.mark.parametrize(
    ("page", "message", "status"),
    [
        ((200, {"content-type": "text/html; charset=utf-8"}, b"<html>"), "the answer is 'text/html', expected a photo", 415),
        ((200, JPEG | {"content-length": "30000000"}, b""), "over 20,971,520 bytes", 413),
        ((200, JPEG | {"content-length": "9000"}, PHOTO[:100]), "breaks off|IncompleteRead", 502),
        ((200, JPEG, b""), "the photo is empty", 400),
        ((410, {}, b""), "HTTP status 410", 410),
        (endless, "over 20,971,520 bytes", 413),
        (trickle, "127.0.0.1 took over 1 s", 504),
        (lambda request: trickle(request, b"content-length: 9000\r\n\r\n"), "127.0.0.1 took over 1 s", 504),
        (lambda request: trickle(request, b"\r\n"), "127.0.0.1 took over 1 s", 504),
    ],
)
def test_an_answer_that_is_no_photo_has_its_reason(client, web, page, message, status):
    web.pages["/a.jpg"] = page
    with pytest.raises(UnreadError, match=message) as caught:
        client.photo(f"{web.url}/a.jpg")
    assert caught.value.status == status


def test_a_list_of_addresses_with_titles_comes_into_a_batch(collect, web, tmp_path):
    web.pages |= {"/a.jpg": (200, JPEG, PHOTO), "/b.jpg": (500, {}, b""), "/c.jpg": (200, JPEG, b"no photo at all")}
    rows = [f"{web.url}/a.jpg,Ramen; hot", f'{web.url}/b.jpg,"two, words"', f"{web.url}/c.jpg", ",empty", "http://10.0.0.1:1/a\\b,"]
    (tmp_path / "list.csv").write_text("\n".join(["\ufeffURL, Title", *rows]), encoding="utf-8")
    done = collect(tmp_path / "list.csv")
    assert done.returncode == 3, done.stderr
    assert "3 of 4 photos failed" in done.stderr
    assert "line without an address" in done.stderr
    (batch,) = finished(tmp_path / "collected")
    assert [(photo.origin, photo.title, photo.source) for photo in read_batch(batch)] == [
        (f"{web.url}/a.jpg", "Ramen; hot", "urls")
    ]
    web.asked.clear()
    web.pages["/b.jpg"] = (200, JPEG, picture_bytes(2, (64, 48)))  # the next day
    assert collect(tmp_path / "list.csv").returncode == 0
    assert web.asked == ["/robots.txt", "/b.jpg"]
    assert [photo.title for photo in read_batch(finished(tmp_path / "collected")[1])] == ["two, words"]
