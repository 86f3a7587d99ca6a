"""JSON that holds photos as base64: ours, and the "instances" of KServe and TensorFlow Serving."""

import json
from typing import Any

from scripts.door.errors import DoorError
from scripts.door.forms.asked import PHOTO_FIELDS, Found, text_of
from scripts.door.forms.base64_text import from_base64
from scripts.door.forms.limits import MAX_INSTANCES, MAX_JSON_VALUES

# no other of Python's codecs: some take minutes for a megabyte, and each name that a client thinks of would be kept
CHARSETS = (
    *("utf-8", "utf8", "utf-16", "utf-16le", "utf-16be", "utf-16-le", "utf-16-be", "utf-32", "utf-32le", "utf-32be"),
    *("us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252"),
)
BASE64_FIELDS = (*PHOTO_FIELDS, "b64", "image_bytes", "bytes")


def begins_as_json(whole: bytes) -> bool:
    """Whether a body looks like a JSON object, whatever its content type."""
    start = whole[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"{") or whole[:4] in (b"\xff\xfe{\0", b"\xfe\xff\0{")


def json_object(text: str | bytes, example: str) -> dict[str, Any]:
    """The object that the JSON is; `example` is one like it. DoorError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DoorError(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DoorError(f"the JSON is a {type(value).__name__}, expected an object like {example}")
    return value


def read_json(whole: bytes, charset: str, found: Found) -> None:
    """Add what the JSON holds. DoorError."""
    if charset and charset.lower() not in CHARSETS:
        raise DoorError(f"the charset is {charset[:40]!r}, expected utf-8", 415)
    try:
        # with a byte order mark or without, in UTF-8, UTF-16 or UTF-32
        text = whole.decode("utf-8-sig" if charset.lower() in ("utf-8", "utf8") else charset or json.detect_encoding(whole))
    except UnicodeError as error:
        raise DoorError(f"the JSON is not text in {charset or 'UTF-8'}: {error}") from error
    if sum(text.count(sign) for sign in "[{,") > MAX_JSON_VALUES:
        raise DoorError(f"the JSON holds over {MAX_JSON_VALUES:,} values, the limit", 413)
    value = json_object(text, '{"image": "<base64>"}')
    parameters = value.get("parameters")
    if isinstance(parameters, dict):
        found.top_k.append(("parameters", parameters.get("top_k")))
    found.top_k.append(("top_k", value.get("top_k")))
    if "instances" not in value:
        found.text.append(("the JSON's text", value.get("text")))
        if not _is_text_alone(value):
            found.photos.append(_photo_in(value, "the JSON"))
        return
    instances = value["instances"]
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        number = len(instances) if isinstance(instances, list) else type(instances).__name__
        raise DoorError(f"instances must be a list of 1 to {MAX_INSTANCES}, found {number}")
    found.instances = True
    for number, instance in enumerate(instances):
        if isinstance(instance, dict):
            found.top_k.append((f"instance {number}", instance.get("top_k")))
        text = text_of(instance.get("text"), f"instance {number}'s text") if isinstance(instance, dict) else ""
        found.texts.append(text)
        found.photos.append(b"" if text and _is_text_alone(instance) else _photo_in(instance, f"instance {number}"))


def _is_text_alone(value: dict[str, Any]) -> bool:
    return bool(value.get("text")) and not any(name in value for name in BASE64_FIELDS)


def _photo_in(value: Any, where: str) -> bytes:
    """The photo in a JSON value: base64 as a string, or in an object's field, which may hold {"b64": ...} again."""
    if isinstance(value, dict):
        names = [name for name in BASE64_FIELDS if name in value]
        if not names:
            raise DoorError(f'{where} holds no photo: fields {str(sorted(value))[:200]}, expected "image" with base64')
        if len(names) > 1:
            raise DoorError(f"{where} holds several photos: {names}, expected one")
        return _photo_in(value[names[0]], f"{where}'s {names[0]}")
    if not isinstance(value, str):
        raise DoorError(f"{where} is a {type(value).__name__}, expected base64 in a string")
    return from_base64(value, where)
