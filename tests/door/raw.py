"""HTTP by hand: requests as bytes, answers read one by one."""

import json
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

NONE: Mapping[str, str] = {}


class Answer(NamedTuple):
    """One HTTP answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(path: str, body: bytes = b"", headers: Mapping[str, str] = NONE, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_answer(stream: BinaryIO) -> Answer:
    """The next answer on a connection. EOFError if there is none."""
    first = stream.readline()
    if not first:
        raise EOFError
    status = int(first.split()[1])
    headers = {}
    while line := stream.readline().rstrip(b"\r\n"):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return Answer(status, headers, stream.read(int(headers.get("content-length", 0))))
