"""Each form that a photo comes in, and what is wrong with it: the reader of bodies alone. test_door.py sends them to a server."""

import base64
import gzip
import json
import zlib
from urllib.parse import quote_plus

import pytest
from starlette.datastructures import Headers

from scripts.door.errors import DoorError
from scripts.door.forms.asked import Asked
from scripts.door.forms.body import Body
from scripts.door.forms.limits import MAX_BODY_BYTES, MAX_FIELD_BYTES, MAX_INSTANCES, MAX_JSON_VALUES, MAX_PARTS, MAX_PHOTO_BYTES
from tests.conftest import SHARED

PHOTO = b"\xff\xd8\xff\xe0 a photo of 500 bytes" + bytes(range(256)) * 2
TEXT = base64.b64encode(PHOTO).decode()


def read(body: bytes, content_type: str = "", query: str = "", size: int = 1000, **headers: str) -> Asked:
    """What a body asks that arrives in chunks of `size` bytes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reader = Body(
        {
            "headers": Headers({"content-type": content_type, "content-length": str(len(body))} | named).raw,
            "query_string": query.encode(),
        }
    )
    for at in range(0, len(body), size):
        reader.write(body[at : at + size])
    return reader.close()


def part(content: bytes, name: str | None = "image", **headers: str) -> bytes:
    disposition = f'form-data; name="{name}"' if name else "form-data"
    lines = {"Content-Disposition": disposition} | {key.replace("_", "-"): value for key, value in headers.items()}
    return b"--XX\r\n" + "".join(f"{key}: {value}\r\n" for key, value in lines.items()).encode() + b"\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


MULTIPART = "multipart/form-data; boundary=XX"
JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"
# what: (body, content type, further headers)
GOOD: dict[str, tuple[bytes, str, dict[str, str]]] = {
    "raw": (PHOTO, "image/jpeg", {}),
    "raw, without a type": (PHOTO, "", {}),
    "raw, a type of nonsense": (PHOTO, ";;=,", {}),
    "raw, as curl --data-binary labels it": (PHOTO, URLENCODED, {}),
    "raw, gzip": (gzip.compress(PHOTO), "image/jpeg", {"content_encoding": "gzip"}),
    "raw, x-gzip": (gzip.compress(PHOTO), "image/jpeg", {"content_encoding": "x-gzip"}),
    "raw, identity": (PHOTO, "image/jpeg", {"content_encoding": "identity"}),
    "raw, deflate": (zlib.compress(PHOTO), "image/jpeg", {"content_encoding": "deflate"}),
    "raw, deflate without zlib's header": (zlib.compress(PHOTO, wbits=-15), "image/jpeg", {"content_encoding": "deflate"}),
    "base64 as the body": (TEXT.encode(), "text/plain", {}),
    "base64 in lines": ("\r\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)).encode(), "", {}),
    "a data URL as the body": (b"data:image/jpeg;base64," + TEXT.encode(), "", {}),
    "JSON": (json.dumps({"image": TEXT}).encode(), JSON, {}),
    "JSON, a data URL": (json.dumps({"image": "data:image/jpeg;base64," + TEXT}).encode(), JSON, {}),
    "JSON without its type": (json.dumps({"image": TEXT}).encode(), "", {}),
    "JSON as problem+json": (json.dumps({"image": TEXT}).encode(), "application/vnd.photo+json", {}),
    "JSON with a byte order mark": (b"\xef\xbb\xbf" + json.dumps({"image": TEXT}).encode(), JSON, {}),
    "JSON in UTF-16": (json.dumps({"image": TEXT}).encode("utf-16"), JSON + "; charset=utf-16", {}),
    "JSON in UTF-16 that is not stated": (json.dumps({"image": TEXT}).encode("utf-16-le"), JSON, {}),
    "JSON in UTF-32": (json.dumps({"image": TEXT}).encode("utf-32"), JSON, {}),
    "JSON, gzip": (gzip.compress(json.dumps({"image": TEXT}).encode()), JSON, {"content_encoding": "gzip"}),
    "JSON, one instance": (json.dumps({"instances": [{"image": TEXT}]}).encode(), JSON, {}),
    "JSON, TensorFlow Serving's instance": (json.dumps({"instances": [{"image_bytes": {"b64": TEXT}}]}).encode(), JSON, {}),
    "JSON, an instance that is text": (json.dumps({"instances": [TEXT]}).encode(), JSON, {}),
    "JSON, base64 for addresses": (json.dumps({"image": base64.urlsafe_b64encode(PHOTO).decode().rstrip("=")}).encode(), JSON, {}),
    "multipart": (form(part(PHOTO, filename="x")), MULTIPART, {}),
    "multipart, a quoted boundary": (form(part(PHOTO)), 'multipart/form-data; boundary="XX"', {}),
    "multipart, other fields": (form(part(b"a", "title"), part(PHOTO, "file"), part(b"b", "comment")), MULTIPART, {}),
    "multipart, base64": (form(part(TEXT.encode(), Content_Transfer_Encoding="base64")), MULTIPART, {}),
    "multipart, base64 that is not stated": (form(part(TEXT.encode())), MULTIPART, {}),
    "multipart, an unknown charset": (form(part(PHOTO, Content_Type="image/jpeg; charset=nope")), MULTIPART, {}),
    "multipart, an epilogue": (form(part(PHOTO)) + b"anything", MULTIPART, {}),
    "multipart, gzip": (gzip.compress(form(part(PHOTO))), MULTIPART, {"content_encoding": "gzip"}),
    "urlencoded": (f"top_k=3&image={quote_plus(TEXT)}".encode(), URLENCODED, {"x_top_k": "3"}),
    "urlencoded, not escaped": (f"image={TEXT}".encode(), URLENCODED, {}),
}


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("what", GOOD)
def test_photo_is_found_in_each_form(what, size):
    body, content_type, headers = GOOD[what]
    assert read(body, content_type, size=size, **headers).only_photo() == PHOTO


# what: (body, content type, headers, status, what the message names)
BAD: dict[str, tuple[bytes, str, dict[str, str], int, str]] = {
    "empty": (b"", "image/jpeg", {}, 400, "0 bytes"),
    "two photos in a form": (form(part(PHOTO), part(PHOTO, "data")), MULTIPART, {}, 400, "2 photos"),
    "two of one name": (form(part(PHOTO), part(PHOTO)), MULTIPART, {}, 400, "2 photos"),
    "two photos in JSON": (json.dumps({"image": TEXT, "data": TEXT}).encode(), JSON, {}, 400, "several photos"),
    "no photo in a form": (form(part(b"3", "top_k")), MULTIPART, {}, 400, "no photo"),
    "no photo in JSON": (b'{"picture": "abc"}', JSON, {}, 400, "picture"),
    "no boundary": (form(part(PHOTO)), "multipart/form-data", {}, 400, "boundary"),
    "an empty boundary": (form(part(PHOTO)), "multipart/form-data; boundary=", {}, 400, "boundary"),
    "another boundary": (form(part(PHOTO)), "multipart/form-data; boundary=YY", {}, 400, "form"),
    "a part without a name": (form(part(PHOTO, None)), MULTIPART, {}, 400, "name"),
    "a part without a disposition": (b"--XX\r\n\r\n" + PHOTO + b"\r\n--XX--\r\n", MULTIPART, {}, 400, "form"),
    "a form that breaks off": (part(PHOTO), MULTIPART, {}, 400, "form"),
    "a part with a wrong length": (form(part(PHOTO, Content_Length="7")), MULTIPART, {}, 400, "Content-Length"),
    "a part that is an attachment": (form(part(PHOTO).replace(b"form-data", b"attachment")), MULTIPART, {}, 400, "Disposition"),
    "an unknown transfer encoding": (form(part(PHOTO, Content_Transfer_Encoding="uuencode")), MULTIPART, {}, 415, "uuencode"),
    "base64 with a wrong letter": (form(part(b"/9j/!!!!", Content_Transfer_Encoding="base64")), MULTIPART, {}, 400, "base64"),
    "too many parts": (form(*[part(b"", f"field{i}") for i in range(MAX_PARTS + 2)]), MULTIPART, {}, 413, f"{MAX_PARTS} parts"),
    "a field that is too long": (form(part(b"x" * (MAX_FIELD_BYTES + 1), "title")), MULTIPART, {}, 413, "title"),
    "a header that is too long": (form(part(PHOTO, X="y" * 5000)), MULTIPART, {}, 413, "limit"),
    "too many headers": (form(part(PHOTO, **{f"X{i}": "y" for i in range(20)})), MULTIPART, {}, 413, "limit"),
    "a photo that is too large": (b"\xff\xd8\xff" + bytes(MAX_PHOTO_BYTES), "image/jpeg", {}, 413, "limit"),
    "a body that is too large": (bytes(MAX_BODY_BYTES + 1), MULTIPART, {}, 413, "limit"),
    "a length that is too large": (b"", "image/jpeg", {"content_length": str(MAX_BODY_BYTES + 1)}, 413, "limit"),
    "a gzip bomb": (gzip.compress(bytes(MAX_BODY_BYTES + 1)), "image/jpeg", {"content_encoding": "gzip"}, 413, "limit"),
    "gzip that is none": (PHOTO, "image/jpeg", {"content_encoding": "gzip"}, 400, "gzip"),
    "gzip that breaks off": (gzip.compress(PHOTO)[:-9], "image/jpeg", {"content_encoding": "gzip"}, 400, "gzip"),
    "gzip that goes on": (gzip.compress(PHOTO) + b"more", "image/jpeg", {"content_encoding": "gzip"}, 400, "gzip"),
    "an unknown content encoding": (PHOTO, "image/jpeg", {"content_encoding": "br"}, 415, "br"),
    "two content encodings": (PHOTO, "image/jpeg", {"content_encoding": "gzip, gzip"}, 415, "gzip"),
    "JSON that is none": (b'{"image": ', JSON, {}, 400, "JSON"),
    "JSON of the wrong charset": (json.dumps({"image": TEXT}).encode(), JSON + "; charset=nope", {}, 415, "nope"),
    "JSON in a codec that takes minutes": (b"a" * 900_000, JSON + "; charset=punycode", {}, 415, "punycode"),
    "JSON in a codec that is no charset": (b"{}", JSON + "; charset=undefined", {}, 415, "undefined"),
    "JSON that is not in its charset": (b'{"image": "\xff"}', JSON + "; charset=utf-8", {}, 400, "utf-8"),
    "JSON that is a list": (b'["abc"]', JSON, {}, 400, "list"),
    "JSON of too many values": (b'{"image": [' + b"[]," * MAX_JSON_VALUES + b"1]}", JSON, {}, 413, f"{MAX_JSON_VALUES:,}"),
    "JSON, deeply nested": (b'{"a":' * 900 + b"1" + b"}" * 900, JSON, {}, 400, "image"),
    "JSON with a number for a photo": (b'{"image": 5}', JSON, {}, 400, "int"),
    "JSON with half a character": (b'{"image": "\\ud800"}', JSON, {}, 400, "base64"),
    "no instances": (b'{"instances": []}', JSON, {}, 400, "instances"),
    "instances that are no list": (b'{"instances": {}}', JSON, {}, 400, "dict"),
    "too many instances": (json.dumps({"instances": [TEXT] * (MAX_INSTANCES + 1)}).encode(), JSON, {}, 400, str(MAX_INSTANCES)),
    "two photos, urlencoded": (b"image=abc&data=abc", URLENCODED, {}, 400, "several photos"),
    "two numbers, urlencoded": (b"top_k=1&image=abcd&top_k=2", URLENCODED, {}, 400, "differs"),
    "a number that is too long, urlencoded": (b"image=abcd&top_k=" + b"1" * (MAX_FIELD_BYTES + 1), URLENCODED, {}, 413, "top_k"),
    "a broken escape, urlencoded": (b"image=ab%4", URLENCODED, {}, 400, "hexadecimal"),
    "too many fields, urlencoded": (b"image=abcd" + b"&a=1" * MAX_PARTS, URLENCODED, {}, 413, f"{MAX_PARTS} fields"),
    "a photo that is too large, as base64": (b"A" * (MAX_BODY_BYTES - 9), "text/plain; a", {}, 413, "limit"),
    "a photo that is too large, urlencoded": (b"image=" + b"A" * (MAX_BODY_BYTES - 9), URLENCODED, {}, 413, "limit"),
}


@pytest.mark.parametrize("what", BAD)
def test_body_that_cannot_be_read_is_refused_by_name(what):
    body, content_type, headers, status, named = BAD[what]
    with pytest.raises(DoorError, match=named) as caught:
        read(body, content_type, size=100_000, **headers)
    assert caught.value.status == status


TOP_K = {
    "query": (PHOTO, "", "top_k=3", {}),
    "header": (PHOTO, "", "", {"x_top_k": "3"}),
    "field": (form(part(PHOTO), part(b" 3 ", "top_k")), MULTIPART, "", {}),
    "field before the photo": (form(part(b"3", "top_k"), part(PHOTO)), MULTIPART, "", {}),
    "field as base64": (form(part(b"Mw==", "top_k", Content_Transfer_Encoding="base64"), part(PHOTO)), MULTIPART, "", {}),
    "JSON": (json.dumps({"image": TEXT, "top_k": 3}).encode(), JSON, "", {}),
    "JSON, as text": (json.dumps({"image": TEXT, "top_k": "3"}).encode(), JSON, "", {}),
    "parameters": (json.dumps({"image": TEXT, "parameters": {"top_k": 3}}).encode(), JSON, "", {}),
    "instance": (json.dumps({"instances": [{"image": TEXT, "top_k": 3}]}).encode(), JSON, "", {}),
    "urlencoded": (f"top_k=3&image={quote_plus(TEXT)}".encode(), URLENCODED, "", {}),
    "two places, one value": (json.dumps({"image": TEXT, "top_k": 3}).encode(), JSON, "top_k=3", {"x_top_k": "3"}),
}


@pytest.mark.parametrize("where", TOP_K)
def test_top_k_is_read_wherever_it_is(where):
    body, content_type, query, headers = TOP_K[where]
    assert read(body, content_type, query, **headers).top_k == 3
    # the same place with another value beside it
    with pytest.raises(DoorError, match="differs") as caught:
        read(body, content_type, query + "&top_k=4", **headers)
    assert caught.value.status == 400


@pytest.mark.parametrize("value", ["0", "-1", "3.5", "three", "1e3", "²", "0x3", "99999999999"])
def test_bad_top_k_is_refused_by_value(value):
    with pytest.raises(DoorError, match="top_k") as caught:
        read(PHOTO, x_top_k=value)
    assert caught.value.status == 400


def test_several_instances_are_several_photos():
    asked = read(json.dumps({"instances": [TEXT, {"b64": TEXT}]}).encode(), JSON)
    assert asked.photos == [PHOTO, PHOTO]
    with pytest.raises(DoorError, match=":predict"):
        asked.only_photo()


FIELD = SHARED / "data" / "field_inputs"
MESSAGE_OF = {
    "form_no_disposition.bin": "Disposition",
    "form_no_name.bin": "name",
    "form_attachment.bin": "Disposition",
    "form_part_length_wrong.bin": "Content-Length",
}


@pytest.mark.skipif(not FIELD.exists(), reason="the inputs of ../shared are not here")
@pytest.mark.parametrize("path", sorted((FIELD / "forms").glob("*.bin")), ids=lambda path: path.name)
def test_forms_from_the_field(path):
    if path.name in MESSAGE_OF:
        with pytest.raises(DoorError, match=MESSAGE_OF[path.name]):
            read(path.read_bytes(), MULTIPART)
    else:
        expected = b"abc" if "quoted_printable" in path.name else (FIELD / "photos" / "ok.jpg").read_bytes()
        assert read(path.read_bytes(), MULTIPART).only_photo().strip() == expected
