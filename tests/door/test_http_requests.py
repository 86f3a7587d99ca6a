"""Raw requests and their answers, from the MUSTs and SHOULDs of RFC 9110 and RFC 9112: the table, tried in three ways."""

import pytest

from tests.door.http_client import GOOD, serve

HOST = b"Host: a\r\n"
LONG = b"a" * 8001
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def get(target=b"/", version=b"HTTP/1.1", method=b"GET", fields=HOST):
    return method + b" " + target + b" " + version + b"\r\n" + fields + b"\r\n"


def post(fields, body=b"", version=b"HTTP/1.1"):
    return get(version=version, method=b"POST", fields=HOST + fields) + body


def chunked(body):
    return post(CHUNKED, body)


# section of RFC 9110 or 9112, what, request, status, whether the connection ends
REQUESTS = [
    ("9112 3", "plain", get(), 200, False),
    ("9112 2.2", "empty line before", b"\r\n" + get(), 200, False),
    ("9112 2.2", "several empty lines before", b"\r\n\r\n\r\n" + get(), 200, False),
    ("9112 2.2", "LF alone before", b"\n" + get(), 400, True),
    ("9112 2.2", "LF ends the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, True),
    ("9112 2.2", "LF ends every line", b"GET / HTTP/1.1\nHost: a\n\n", 400, True),
    ("9112 2.2", "LF ends a field", get(fields=b"Host: a\nA: b\r\n"), 400, True),
    ("9112 2.2", "CR within the request line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    ("9112 2.2", "CR within a field", get(fields=HOST + b"A: b\rc\r\n"), 400, True),
    ("9112 2.2", "space before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, True),
    ("9112 2.2", "space before the request line", b" " + get(), 400, True),
    ("9112 2.2", "TLS to a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x01" * 40, 400, True),
    ("9112 2.3", "HTTP/1.0", get(version=b"HTTP/1.0"), 200, True),
    ("9112 2.3", "HTTP/1.0 without Host", get(version=b"HTTP/1.0", fields=b""), 200, True),
    ("9110 2.5", "higher minor version", get(version=b"HTTP/1.2"), 200, False),
    ("9110 2.5", "highest minor version", get(version=b"HTTP/1.9"), 200, False),
    ("9110 15.6.6", "HTTP/0.9 without a version", b"GET /\r\n", 505, True),
    ("9110 15.6.6", "HTTP/0.9", get(version=b"HTTP/0.9"), 505, True),
    ("9110 15.6.6", "HTTP/2.0", get(version=b"HTTP/2.0"), 505, True),
    ("9110 15.6.6", "HTTP/3.0", get(version=b"HTTP/3.0"), 505, True),
    ("9113 3.4", "preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, True),
    ("9112 2.3", "version in lower case", get(version=b"http/1.1"), 400, True),
    ("9112 2.3", "version of two digits", get(version=b"HTTP/1.10"), 400, True),
    ("9112 2.3", "version without a dot", get(version=b"HTTP/11"), 400, True),
    ("9112 2.3", "another protocol", get(version=b"RTSP/1.0"), 400, True),
    ("9112 2.3", "another protocol of llhttp", get(version=b"ICE/1.0", method=b"SOURCE"), 400, True),
    ("9112 3", "two spaces before the target", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    ("9112 3", "two spaces behind the target", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    ("9112 3", "tab for a space", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    ("9112 3", "space behind the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, True),
    ("9112 3", "space within the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    ("9112 3", "method alone", b"GET\r\n\r\n", 400, True),
    ("9112 3.1", "unknown method", get(method=b"FOO"), 501, True),
    ("9112 3.1", "method in lower case", get(method=b"get"), 501, True),
    ("9112 3.1", "method of WebDAV", get(method=b"PROPFIND"), 501, True),
    ("9110 9.3.8", "TRACE", get(method=b"TRACE"), 501, True),
    ("9112 3.1", "method that is no token", get(method=b"G(T"), 400, True),
    ("9112 3.1", "method of 40 letters", get(method=b"A" * 40), 400, True),
    ("9110 9.3.6", "CONNECT", get(b"a:80", method=b"CONNECT"), 501, True),
    ("9112 3.2", "target of 8,000 bytes", get(b"/" + LONG[:7999]), 200, False),
    ("9112 3", "target of 8,002 bytes", get(b"/" + LONG), 414, True),
    ("9112 3", "target of 40,000 bytes", get(b"/" + LONG * 5), 414, True),
    ("9112 3.2", "no Host", get(fields=b"A: b\r\n"), 400, True),
    ("9112 3.2", "no field", get(fields=b""), 400, True),
    ("9112 3.2", "two Hosts", get(fields=HOST + b"host: b\r\n"), 400, True),
    ("9112 3.2", "two equal Hosts", get(fields=HOST + HOST), 400, True),
    ("9112 3.2", "two Hosts of HTTP/1.0", get(version=b"HTTP/1.0", fields=HOST + HOST), 400, True),
    ("9112 3.2", "Host and port", get(fields=b"Host: example.com:8080\r\n"), 200, False),
    ("9112 3.2", "Host of IPv6", get(fields=b"Host: [::1]:8080\r\n"), 200, False),
    ("9112 3.2", "Host with an underscore", get(fields=b"Host: my_service\r\n"), 200, False),
    ("9110 4.2.1", "empty Host", get(fields=b"Host:\r\n"), 400, True),
    ("9112 3.2", "Host with a space", get(fields=b"Host: a b\r\n"), 400, True),
    ("9112 3.2", "Host with a path", get(fields=b"Host: a/b\r\n"), 400, True),
    ("9112 3.2", "Host with a user", get(fields=b"Host: u@a\r\n"), 400, True),
    ("9112 3.2", "list of Hosts", get(fields=b"Host: a, b\r\n"), 400, True),
    ("9112 3.2", "Host with a port too high", get(fields=b"Host: a:65536\r\n"), 400, True),
    ("9112 3.2", "Host with letters for a port", get(fields=b"Host: a:b\r\n"), 400, True),
    ("9112 3.2", "Host with an open bracket", get(fields=b"Host: [::1\r\n"), 400, True),
    ("9112 3.2", "Host with a byte over 127", get(fields=b"Host: \xe4\r\n"), 400, True),
    ("9112 3.2.2", "absolute form", get(b"http://b.example/c?d"), 200, False),
    ("9112 3.2.2", "absolute form in capitals", get(b"HTTPS://b.example:443"), 200, False),
    ("9112 3.2.2", "absolute form without Host", get(b"http://b/", fields=b""), 400, True),
    ("9110 4.2.1", "absolute form without an authority", get(b"http:///c"), 400, True),
    ("9110 4.2.4", "absolute form with a user", get(b"http://u:p@b/"), 400, True),
    ("9112 3.2.2", "absolute form of another scheme", get(b"ftp://b/"), 400, True),
    ("9112 3.2.3", "authority form", get(b"a:80"), 400, True),
    ("9112 3.2.4", "asterisk for OPTIONS", get(b"*", method=b"OPTIONS"), 200, False),
    ("9112 3.2.4", "absolute form of the asterisk", get(b"http://b", method=b"OPTIONS"), 200, False),
    ("9112 3.2.4", "asterisk for GET", get(b"*"), 400, True),
    ("9112 3.2.1", "relative target", get(b"a"), 400, True),
    ("9112 3.2", "query alone", get(b"?a"), 400, True),
    ("9112 3.2.1", "fragment", get(b"/a#b"), 400, True),
    ("9112 3.2", "byte over 127 in the target", get(b"/\xe4"), 400, True),
    ("9112 3.2", "NUL in the target", get(b"/\x00"), 400, True),
    ("3986 2.1", "escape", get(b"/%C3%A4"), 200, False),
    ("3986 2.1", "escaped NUL", get(b"/a%00"), 400, True),
    ("3986 2.1", "escape without digits", get(b"/%zz"), 400, True),
    ("3986 2.1", "escape cut short", get(b"/%a"), 400, True),
    ("9112 5.1", "space before the colon", get(fields=HOST + b"A : b\r\n"), 400, True),
    ("9112 5.1", "tab before the colon", get(fields=HOST + b"A\t: b\r\n"), 400, True),
    ("9110 5.6.2", "name that is no token", get(fields=HOST + b"A(b: c\r\n"), 400, True),
    ("9110 5.6.2", "name with a byte over 127", get(fields=HOST + b"\xe4: c\r\n"), 400, True),
    ("9110 5.1", "empty name", get(fields=HOST + b": c\r\n"), 400, True),
    ("9112 5", "field without a colon", get(fields=HOST + b"A\r\n"), 400, True),
    ("9110 5.5", "empty value", get(fields=HOST + b"A:\r\n"), 200, False),
    ("9112 5.2", "folded line", get(fields=HOST + b"A: b\r\n c\r\n"), 400, True),
    ("9110 5.5", "NUL in a value", get(fields=HOST + b"A: b\x00c\r\n"), 400, True),
    ("9110 5.5", "control character in a value", get(fields=HOST + b"A: b\x01c\r\n"), 400, True),
    ("9110 5.5", "DEL in a value", get(fields=HOST + b"A: b\x7fc\r\n"), 400, True),
    ("9110 5.5", "byte over 127 in a value", get(fields=HOST + b"A: b\xe4c\r\n"), 200, False),
    ("6585 5", "100 fields", get(fields=HOST + b"A: b\r\n" * 99), 200, False),
    ("6585 5", "101 fields", get(fields=HOST + b"A: b\r\n" * 100), 431, True),
    ("6585 5", "a long field", get(fields=HOST + b"A: " + LONG * 2 + b"\r\n"), 200, False),
    ("6585 5", "a field that is too long", get(fields=HOST + b"A: " + LONG * 3 + b"\r\n"), 431, True),
    ("6585 5", "a name that is too long", get(fields=HOST + LONG * 3 + b": a\r\n"), 431, True),
    ("9112 6.3", "length", post(b"Content-Length: 3\r\n", b"abc"), 200, False),
    ("9112 6.3", "length of nothing", post(b"Content-Length: 0\r\n"), 200, False),
    ("9112 6.3", "no length, no body", post(b""), 200, False),
    ("9110 8.6", "length with zeros", post(b"Content-Length: 0003\r\n", b"abc"), 200, False),
    ("9112 6.3", "body of a GET", get(fields=HOST + b"Content-Length: 3\r\n") + b"abc", 200, False),
    ("9110 8.6", "length twice", post(b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd"), 400, True),
    ("9110 8.6", "equal length twice", post(b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"), 400, True),
    ("9110 8.6", "list of lengths", post(b"Content-Length: 3, 3\r\n", b"abc"), 400, True),
    ("9110 8.6", "length with a sign", post(b"Content-Length: +3\r\n", b"abc"), 400, True),
    ("9110 8.6", "negative length", post(b"Content-Length: -3\r\n", b"abc"), 400, True),
    ("9110 8.6", "hexadecimal length", post(b"Content-Length: 0x3\r\n", b"abc"), 400, True),
    ("9110 8.6", "length with a fraction", post(b"Content-Length: 3.0\r\n", b"abc"), 400, True),
    ("9110 8.6", "length with a space", post(b"Content-Length: 1 1\r\n", b"abc"), 400, True),
    ("9110 8.6", "empty length", post(b"Content-Length:\r\n"), 400, True),
    ("9110 8.6", "length over 64 bits", post(b"Content-Length: 18446744073709551616\r\n", b"abc"), 400, True),
    ("9112 6.1", "length and coding", post(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400, True),
    ("9112 6.1", "coding and length", post(b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"0\r\n\r\n"), 400, True),
    ("9112 6.1", "chunked", chunked(b"3\r\nabc\r\n0\r\n\r\n"), 200, False),
    ("9112 6.1", "chunked in capitals", post(b"Transfer-Encoding: CHUNKED\r\n", b"0\r\n\r\n"), 200, False),
    ("9112 6.1", "chunked in HTTP/1.0", post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"HTTP/1.0"), 400, True),
    ("9112 6.1", "coding before chunked", post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 501, True),
    ("9112 6.3", "another coding", post(b"Transfer-Encoding: gzip\r\n", b"abc"), 400, True),
    ("9112 6.3", "chunked is not the last", post(b"Transfer-Encoding: chunked, gzip\r\n", b"abc"), 400, True),
    ("9112 6.3", "identity", post(b"Transfer-Encoding: identity\r\n", b"abc"), 400, True),
    ("9112 6.1", "chunked twice", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400, True),
    ("9112 6.1", "chunked twice in one field", post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), 400, True),
    ("9112 6.1", "almost chunked", post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 400, True),
    ("9112 6.1", "quoted chunked", post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), 400, True),
    ("9112 6.1", "control character behind chunked", post(b"Transfer-Encoding: chunked\x0b\r\n", b"0\r\n\r\n"), 400, True),
    ("9112 6.1", "empty coding", post(b"Transfer-Encoding:\r\n", b"0\r\n\r\n"), 400, True),
    ("9112 7.1", "size in capitals, with zeros", chunked(b"00A\r\nabcdefghij\r\n000\r\n\r\n"), 200, False),
    ("9112 7.1", "size of 17 digits", chunked(b"00000000000000003\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "size over 64 bits", chunked(b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "size with 0x", chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "size with a sign", chunked(b"+3\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "negative size", chunked(b"-3\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "size with an underscore", chunked(b"1_0\r\nabcdefghijklmnop\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "no size", chunked(b"\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "space before the size", chunked(b" 3\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "space behind the size", chunked(b"3 \r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "LF behind the size", chunked(b"3\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "LF behind the chunk", chunked(b"3\r\nabc\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "chunk longer than its size", chunked(b"3\r\nabcd\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1", "chunk shorter than its size", chunked(b"4\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1.1", "extension", chunked(b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n'), 200, False),
    ("9112 7.1.1", "extension that is too long", chunked(b"3;a=" + b"b" * 300 + b"\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1.1", "LF in an extension", chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1.1", "NUL in an extension", chunked(b"3;a\x00\r\nabc\r\n0\r\n\r\n"), 400, True),
    ("9112 7.1.2", "trailer", chunked(b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"), 200, False),
    ("9112 7.1.2", "trailers that are too long", chunked(b"0\r\n" + b"A: b\r\n" * 1000 + b"\r\n"), 400, True),
    ("9112 7.1.2", "malformed trailer", chunked(b"0\r\nA b\r\n\r\n"), 400, True),
    ("9112 7.1.2", "LF behind a trailer", chunked(b"0\r\nA: b\n\r\n"), 400, True),
    ("9112 7.1.2", "length as a trailer", chunked(b"0\r\nContent-Length: 3\r\n\r\n"), 400, True),
    ("9112 7.1", "tiny chunks", chunked(b"1\r\na\r\n" * 6000 + b"0\r\n\r\n"), 400, True),
    ("9110 10.1.1", "other expectation", post(b"Expect: something\r\nContent-Length: 3\r\n", b"abc"), 417, True),
    ("9110 10.1.1", "expectation of HTTP/1.0", post(b"Expect: x\r\nContent-Length: 3\r\n", b"abc", b"HTTP/1.0"), 200, True),
    ("9110 7.8", "upgrade to h2c", get(fields=HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"), 200, False),
    ("9110 7.8", "upgrade to WebSocket", get(fields=HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), 200, False),
    ("9110 7.8", "upgrade and a body", post(b"Connection: Upgrade\r\nUPGRADE: h2c\r\nContent-Length: 3\r\n", b"abc"), 200, False),
    ("9110 7.8", "upgrade, chunked", post(b"Connection: upgrade\r\nUpgrade: a\r\n" + CHUNKED, b"0\r\n\r\n"), 200, False),
    ("9110 7.8", "upgrade with a bad value", post(b"Connection: Upgrade\r\nUpgrade: a\x00\r\n"), 400, True),
    ("9112 9.3", "connection: close", get(fields=HOST + b"Connection: close\r\n"), 200, True),
    ("9112 9.3", "connection: close in a list", get(fields=HOST + b"Connection: a, CLOSE\r\n"), 200, True),
    ("9112 9.3", "keep-alive of HTTP/1.0", get(version=b"HTTP/1.0", fields=b"Connection: keep-alive\r\n"), 200, False),
    ("9112 9.3", "keep-alive of HTTP/1.1", get(fields=HOST + b"Connection: keep-alive\r\n"), 200, False),
]  # fmt: skip
IDS = [f"{section} {what}" for section, what, *_ in REQUESTS]


@pytest.fixture(scope="module")
def served():
    with serve() as served:
        yield served


def check(client, status, closes):
    answer = client.answer()
    assert answer is not None
    assert answer.status == status
    assert answer.header("x-request-id")
    assert answer.header("date")
    if status != 200:
        assert answer.header("content-type") == "application/json"
        assert answer.json()["code"] == status
        assert answer.json()["message"]
        assert list(answer.json()) == ["code", "type", "message", "request_id"]
    if closes:
        assert answer.header("connection") == "close"
        assert client.is_closed()
    else:
        assert client.ask(GOOD).json()["path"] == "/good"


@pytest.mark.parametrize(("section", "what", "request_bytes", "status", "closes"), REQUESTS, ids=IDS)
def test_request_alone(served, section, what, request_bytes, status, closes):
    with served.connect() as client:
        client.send(request_bytes)
        check(client, status, closes)


@pytest.mark.parametrize(("section", "what", "request_bytes", "status", "closes"), REQUESTS, ids=IDS)
def test_request_behind_good_ones(served, section, what, request_bytes, status, closes):
    """The good ones are answered first, whatever comes behind them."""
    with served.connect() as client:
        body = b"POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n"
        assert client.ask(body + GOOD + request_bytes).json()["path"] == "/first"
        assert client.answer().json()["path"] == "/good"
        check(client, status, closes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "what", "request_bytes", "status", "closes"), [row for row in REQUESTS if len(row[2]) < 400],
    ids=[name for name, row in zip(IDS, REQUESTS, strict=True) if len(row[2]) < 400],
)  # fmt: skip
def test_request_byte_by_byte(served, section, what, request_bytes, status, closes):
    with served.connect() as client:
        try:
            for at in range(len(request_bytes)):
                client.send(request_bytes[at : at + 1])
        except (BrokenPipeError, ConnectionResetError):
            assert closes
        check(client, status, closes)
