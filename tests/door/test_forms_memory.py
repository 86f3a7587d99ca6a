"""A body takes about twice its bytes of memory until its photo is there, whatever it holds; base64 is read in pieces."""

import base64
import contextlib
import random
import tracemalloc
from urllib.parse import quote_plus

import pytest
from starlette.datastructures import Headers

from scripts.door.errors import DoorError
from scripts.door.forms.base64_text import PIECE_BYTES, from_base64
from scripts.door.forms.body import Body

FORM = "application/x-www-form-urlencoded"
LARGE = 4_000_000
TEXT = base64.b64encode(b"\xff\xd8\xff" + random.Random(0).randbytes(LARGE // 4 * 3 - 3)).decode()
BODIES = {
    "raw": ("image/jpeg", bytes(LARGE)),
    "base64": ("text/plain", TEXT),
    "data URL": ("text/plain", "data:image/jpeg;base64," + TEXT),
    "base64 for addresses": ("text/plain", TEXT.replace("/", "_").replace("+", "-")),
    "form": (FORM, "image=" + TEXT),
    "form, escaped": (FORM, "image=" + quote_plus(TEXT)),
    "form, all escaped": (FORM, "image=" + "%41" * (LARGE // 3)),
    "form, signs of escapes": (FORM, "image=" + "%" * LARGE),
    "form, spaces": (FORM, "image=" + "+" * LARGE),
    "form, end signs": (FORM, "image=" + "=" * LARGE),
    "form, another field of escapes": (FORM, "image=abcd&other=" + "%41" * (LARGE // 3)),
    "form, name of escapes": (FORM, "a" + "%41" * (LARGE // 3) + "=1&image=abcd"),
    "form, number of escapes": (FORM, "image=abcd&top_k=" + "%33" * (LARGE // 3)),
    "form of many fields": (FORM, "image=abcd" + "&" * LARGE),
}


def body_of(kind: str, content: bytes) -> Body:
    headers = Headers({"content-type": kind, "content-length": str(len(content))})
    return Body({"headers": headers.raw, "query_string": b""})


@pytest.mark.parametrize("what", BODIES)
def test_body_takes_twice_its_bytes(what):
    kind, content = BODIES[what]
    content = content.encode() if isinstance(content, str) else content
    tracemalloc.start()
    try:
        body = body_of(kind, content)
        for at in range(0, len(content), 65536):
            body.write(content[at : at + 65536])
        with contextlib.suppress(DoorError):
            body.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"{peak / len(content):.2f} times {len(content):,} bytes")
    assert peak < 2.3 * len(content)


def spelt(text, rng):
    """Base64 as some client may escape it in a form."""
    escaped = (f"%{ord(sign):02{rng.choice('xX')}}" if sign in "+/=" or rng.random() < 0.1 else sign for sign in text)
    return "".join("%0D%0A" + sign if rng.random() < 0.01 else sign for sign in escaped)


def test_escapes_are_read_wherever_a_piece_ends():
    rng = random.Random(0)
    for length in range(PIECE_BYTES * 3 // 4 - 40, PIECE_BYTES * 3 // 4 + 5):
        photo = rng.randbytes(length)
        text = spelt(base64.b64encode(photo).decode(), rng)
        content = f"a=1&im%61ge={text}&top%5Fk=+3".encode()
        body = body_of(FORM, content)
        body.write(content)
        asked = body.close()
        assert (asked.photos, asked.top_k) == ([photo], 3)


@pytest.mark.parametrize("padding", ["", "=", "==", "\n", "\n=\r\n= "])
def test_base64_is_read_wherever_a_piece_ends(padding):
    for length in range(PIECE_BYTES * 3 // 4 - 5, PIECE_BYTES * 3 // 4 + 5):
        photo = bytes(length)
        text = base64.b64encode(photo).decode().rstrip("=") + padding
        assert from_base64(text, "") == from_base64(text.encode(), "") == photo


@pytest.mark.parametrize("text", ["YQ==YQ==", "YQ=Y", "Y", "YQ" + "=" * PIECE_BYTES + "YQ", "A" * (PIECE_BYTES + 1), "é", "YQ!="])
def test_text_that_is_not_base64_is_refused(text):
    with pytest.raises(DoorError, match="the photo is not base64") as caught:
        from_base64(text, "the photo")
    assert caught.value.status == 400
