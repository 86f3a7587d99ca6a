"""A request's body, in whatever form it comes -> the photos in it and the number of classes to answer with.

Raw bytes, a multipart or urlencoded form, JSON (ours, KServe's), base64 as text; compressed by gzip or deflate. Chunks are taken as
they arrive, and what is over a limit is refused at the chunk that is over it.
"""

import base64
import binascii
import json
import math
import quopri
import re
import urllib.parse
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import multipart

MEGABYTE = 1024 * 1024
MAX_PHOTO_BYTES = 20 * MEGABYTE
MAX_BODY_BYTES = 28 * MEGABYTE  # such a photo as base64
MAX_PARTS, MAX_HEADERS, MAX_HEADER_BYTES = 32, 8, 4096
MAX_FIELD_BYTES = 4096  # of a part that is no photo
# lists, objects and their members: a photo needs three, and each takes far more memory than its two bytes of text
MAX_JSON_VALUES = 1000
MAX_INSTANCES = 8

PHOTO_FIELDS = ("image", "data", "body", "file", "photo")
BASE64_FIELDS = (*PHOTO_FIELDS, "b64", "image_bytes", "bytes")
BASE64 = re.compile(rb"[\w+/=\s-]+")
# how the bytes of our formats begin, as base64: JPEG, PNG, WebP, GIF, BMP, TIFF, JPEG 2000
BASE64_STARTS = (b"/9j/", b"iVBORw0KGgo", b"UklGR", b"R0lGOD", b"Qk", b"SUkq", b"TU0AK", b"AAAADGpQ")


class FormError(Exception):
    """The body cannot be read; the message says what was found and expected. `status` is HTTP's."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """What a request asks. `instances`: one answer for each photo is expected, in KServe's form."""

    photos: list[bytes]
    top_k: int | None
    instances: bool = False


@dataclass
class _Found:
    """Photos and values for top_k, as they are found."""

    photos: list[bytes] = field(default_factory=list)
    top_k: list[tuple[str, Any]] = field(default_factory=list)
    instances: bool = False

    def asked(self) -> Asked:
        if not self.photos:
            raise FormError(f"the request holds no photo: send it as the body, or as a field called {PHOTO_FIELDS[0]}")
        if len(self.photos) > 1 and not self.instances:
            raise FormError(f"the request holds {len(self.photos)} photos, expected one: send a request for each")
        numbers = {where: _number(value) for where, value in self.top_k if value not in (None, "")}
        if len(set(numbers.values())) > 1:
            found = " and ".join(f"{number} ({where})" for where, number in numbers.items())
            raise FormError(f"top_k is given more than once, and differs: {found}")
        return Asked(self.photos, next(iter(numbers.values()), None), self.instances)


class Body:
    """Takes a body chunk by chunk. FormError from each call."""

    def __init__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> None:
        """Headers by name in lower case."""
        self._found = _Found(top_k=[("query", query.get("top_k")), ("header x-top-k", headers.get("x-top-k"))])
        self._type, options = multipart.parse_options_header(headers.get("content-type", ""))
        self._charset = options.get("charset", "")
        self._inflate = _inflater(headers.get("content-encoding", ""))
        self._parts = _Parts(options.get("boundary", ""), self._found) if self._type == "multipart/form-data" else None
        self._whole, self._size = bytearray(), 0

    def write(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        for part in self._inflate.write(chunk):
            self._size += len(part)
            if self._size > MAX_BODY_BYTES:
                raise FormError(f"the body has over {MAX_BODY_BYTES:,} bytes, the limit", 413)
            if self._parts:
                self._parts.write(part)
            else:
                self._whole += part

    def close(self) -> Asked:
        """What the body asks, once it is whole."""
        self._inflate.close()
        if self._parts:
            self._parts.close()
        else:
            self._read(bytes(self._whole))
        return self._found.asked()

    def _read(self, whole: bytes) -> None:
        if not whole:
            raise FormError("the body is empty: 0 bytes, expected a photo")
        if self._type == "application/json" or self._type.endswith("+json") or _begins_as_json(whole):
            return _read_json(whole, self._charset, self._found)
        # curl's --data-binary says that a photo is of this type
        if self._type == "application/x-www-form-urlencoded" and (fields := _urlencoded(whole)):
            return _read_fields(fields, self._found)
        self._found.photos.append(_photo(whole))
        return None


class _Parts:
    """A multipart form: RFC 7578."""

    def __init__(self, boundary: str, found: _Found) -> None:
        self._found, self._name, self._encoding, self._content = found, "", "", bytearray()
        try:
            self._parser = multipart.PushMultipartParser(
                boundary, max_header_size=MAX_HEADER_BYTES, max_header_count=MAX_HEADERS, max_segment_count=MAX_PARTS
            )
        except multipart.MultipartError as error:
            raise FormError(f"the content type multipart/form-data needs a boundary, found {boundary[:80]!r}") from error

    def write(self, chunk: bytes) -> None:
        if self._parser.closed:
            return  # what follows the last boundary is to be ignored: RFC 2046, 5.1.1
        try:
            for event in self._parser.parse(chunk):
                self._take(event)
        except multipart.ParserLimitReached as error:
            limits = f"{MAX_PARTS} parts, {MAX_HEADERS} headers a part, {MAX_HEADER_BYTES:,} bytes a header"
            raise FormError(f"the form is over a limit ({limits}): {error}", 413) from error
        except multipart.MultipartError as error:
            raise FormError(f"the form cannot be read: {error}") from error

    def close(self) -> None:
        try:
            self._parser.close()
        except multipart.MultipartError as error:
            raise FormError(f"the form cannot be read: {error}") from error

    def _take(self, event: Any) -> None:
        if isinstance(event, multipart.MultipartSegment):
            if not event.name:
                raise FormError('a part of the form has no name: its Content-Disposition must be like form-data; name="image"')
            self._name, self._encoding, self._content = event.name, event.header("Content-Transfer-Encoding", "").lower(), bytearray()
        elif event is None:
            self._end_of_part()
        else:
            self._content += event
            limit = MAX_BODY_BYTES if self._name in PHOTO_FIELDS else MAX_FIELD_BYTES
            if len(self._content) > limit:
                raise FormError(f"the form's field {self._name[:40]!r} has over {limit:,} bytes, the limit", 413)

    def _end_of_part(self) -> None:
        content = _transferred(bytes(self._content), self._encoding)
        if self._name in PHOTO_FIELDS:
            self._found.photos.append(_photo(content))
        elif self._name == "top_k":
            self._found.top_k.append(("field top_k", content))


def _transferred(content: bytes, encoding: str) -> bytes:
    """A part's content without its transfer encoding: RFC 7578, 4.7 deprecates it, and Python's email and curl write it."""
    if encoding in ("", "7bit", "8bit", "binary"):
        return content
    if encoding == "base64":
        return _base64(content, "the form's part")
    if encoding == "quoted-printable":
        return quopri.decodestring(content)
    raise FormError(f"a part's Content-Transfer-Encoding is {encoding[:40]!r}, expected binary, base64 or quoted-printable", 415)


class _Plain:
    """No compression."""

    def write(self, chunk: bytes) -> Iterable[bytes]:
        return (chunk,)

    def close(self) -> None:
        pass


class _Inflater:
    """gzip or deflate, unpacked in pieces: a bomb is noticed at the limit, not in memory."""

    def __init__(self, name: str) -> None:
        self._name, self._raw, self._begun = name, zlib.decompressobj(-zlib.MAX_WBITS), False
        # 32: zlib's header or gzip's, whichever is there
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def write(self, chunk: bytes) -> Iterable[bytes]:
        if self._stream.eof:
            raise FormError(f"the body goes on after its end as {self._name}")
        while chunk:
            try:
                piece = self._stream.decompress(chunk, MEGABYTE)
            except zlib.error as error:
                if self._begun or self._name != "deflate":
                    raise FormError(f"the body is not {self._name}, as Content-Encoding states: {error}") from error
                # some send deflate without zlib's header, which RFC 9110, 8.4.1.2 wants
                self._begun, self._stream = True, self._raw
                continue
            self._begun, chunk = True, self._stream.unconsumed_tail
            yield piece

    def close(self) -> None:
        if not self._stream.eof:
            raise FormError(f"the body breaks off: its {self._name} has no end")


def _inflater(encodings: str) -> _Plain | _Inflater:
    names = [name.strip().lower() for name in encodings.split(",") if name.strip().lower() not in ("", "identity")]
    if not names:
        return _Plain()
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise FormError(f"Content-Encoding is {encodings[:40]!r}, expected gzip or deflate", 415)
    return _Inflater(names[0])


def _begins_as_json(whole: bytes) -> bool:
    start = whole[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"{") or whole[:4] in (b"\xff\xfe{\0", b"\xfe\xff\0{")


def _read_json(whole: bytes, charset: str, found: _Found) -> None:
    try:
        # with a byte order mark or without, in UTF-8, UTF-16 or UTF-32
        text = whole.decode("utf-8-sig" if charset.lower() in ("utf-8", "utf8") else charset or json.detect_encoding(whole))
    except (UnicodeDecodeError, LookupError) as error:
        raise FormError(f"the JSON is not text in {charset or 'UTF-8'}: {error}") from error
    if sum(text.count(sign) for sign in "[{,") > MAX_JSON_VALUES:
        raise FormError(f"the JSON holds over {MAX_JSON_VALUES:,} values, the limit", 413)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormError(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormError(f'the JSON is a {type(value).__name__}, expected an object like {{"image": "<base64>"}}')
    parameters = value.get("parameters")
    if isinstance(parameters, dict):
        found.top_k.append(("parameters", parameters.get("top_k")))
    found.top_k.append(("top_k", value.get("top_k")))
    if "instances" not in value:
        found.photos.append(_photo_in(value, "the JSON"))
        return
    instances = value["instances"]
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        number = len(instances) if isinstance(instances, list) else type(instances).__name__
        raise FormError(f"instances must be a list of 1 to {MAX_INSTANCES}, found {number}")
    found.instances = True
    for number, instance in enumerate(instances):
        if isinstance(instance, dict):
            found.top_k.append((f"instance {number}", instance.get("top_k")))
        found.photos.append(_photo_in(instance, f"instance {number}"))


def _photo_in(value: Any, where: str) -> bytes:
    """The photo in a JSON value: base64 as a string, or in an object's field, which may hold {"b64": ...} again."""
    if isinstance(value, dict):
        names = [name for name in BASE64_FIELDS if name in value]
        if not names:
            raise FormError(f'{where} holds no photo: fields {str(sorted(value))[:200]}, expected "image" with base64')
        if len(names) > 1:
            raise FormError(f"{where} holds several photos: {names}, expected one")
        return _photo_in(value[names[0]], f"{where}'s {names[0]}")
    if not isinstance(value, str):
        raise FormError(f"{where} is a {type(value).__name__}, expected base64 in a string")
    return _base64(value.encode(errors="replace"), where)


def _urlencoded(whole: bytes) -> dict[str, str]:
    """The fields of an urlencoded form that names a photo; nothing for a photo itself."""
    if not re.match(rb"\w{1,20}=", whole) and b"&" not in whole[:64]:
        return {}
    try:
        fields = urllib.parse.parse_qsl(whole.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PARTS)
    except UnicodeDecodeError:
        return {}
    except ValueError as error:
        raise FormError(f"the form has over {MAX_PARTS} fields, the limit", 413) from error
    names = [name for name, _ in fields if name in BASE64_FIELDS]
    if len(names) > 1:
        raise FormError(f"the form holds several photos: {names}, expected one")
    return dict(fields) if names else {}


def _read_fields(fields: Mapping[str, str], found: _Found) -> None:
    found.top_k.append(("field top_k", fields.get("top_k")))
    name = next(name for name in fields if name in BASE64_FIELDS)
    # a plus sign that was not escaped is a space by now
    found.photos.append(_base64(fields[name].replace(" ", "+").encode(), f"the form's {name}"))


def _photo(content: bytes) -> bytes:
    """The photo in a body or a part: its bytes, or base64 of them, or a data URL."""
    start = content[:64].lstrip()
    if start.startswith(b"data:") or (start.startswith(BASE64_STARTS) and BASE64.fullmatch(content)):
        return _base64(content, "the photo")
    if len(content) > MAX_PHOTO_BYTES:
        raise FormError(f"the photo has {len(content):,} bytes, the limit is {MAX_PHOTO_BYTES:,}", 413)
    return content


def _base64(text: bytes, where: str) -> bytes:
    """Bytes of base64, also in its spelling for addresses, without padding, with line breaks, or in a data URL."""
    if text.lstrip().startswith(b"data:"):
        text = text.partition(b",")[2]
    text = b"".join(text.split()).replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    if len(text) > math.ceil(MAX_PHOTO_BYTES / 3) * 4:
        raise FormError(f"{where} has {len(text):,} characters of base64, the limit is {math.ceil(MAX_PHOTO_BYTES / 3) * 4:,}", 413)
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormError(f"{where} is not base64: {error}") from error


def _number(value: Any) -> int:
    text = bytes(value).decode("latin-1") if isinstance(value, bytes | bytearray) else str(value)
    if isinstance(value, bool | float | list | dict) or not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII) or int(text) < 1:
        raise FormError(f"top_k is {text[:40]!r}, expected a whole number from 1")
    return int(text)
