"""The open inference protocol's request: JSON, and after it in the binary form the tensors' bytes -> photos, texts, wanted outputs.

Source: https://github.com/kserve/open-inference-protocol, and its extension binary_tensor_data.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from scripts.door.errors import DoorError
from scripts.door.forms.asked import text_of
from scripts.door.forms.base64_text import from_base64, photo_of
from scripts.door.forms.body import Body
from scripts.door.forms.json_form import json_object
from scripts.door.forms.limits import MAX_FIELD_BYTES, MAX_INSTANCES, MAX_JSON_VALUES
from scripts.phrases import counted

INPUT = "image"
TEXT = "text"  # beside the image, or alone, for models that read texts
# name: (datatype, its struct format or none); one row a photo, one column a class, the most probable first
OUTPUTS = {"label": ("BYTES", ""), "index": ("INT64", "q"), "probability": ("FP32", "f"), "sure": ("BOOL", "?")}
# a photo as a list of numbers takes four times its bytes as text, and eight as a list: larger ones must come as base64 or binary
MAX_NUMBERS = 1024 * 1024
HEADER = "inference-header-content-length"


@dataclass
class Wanted:
    """What a request wants besides its photos: its own id, and by output whether in binary."""

    id: str | None
    outputs: Mapping[str, bool]


class TensorBody(Body):
    """Takes the body of an inference request; once it is closed, `wanted` is there. DoorError."""

    def __init__(self, scope: Scope) -> None:
        # whatever the content type: clients send the binary form as application/octet-stream, or as nothing at all
        super().__init__({**scope, "headers": [header for header in scope["headers"] if header[0] != b"content-type"]})
        self._json_length = Headers(scope=scope).get(HEADER)
        self.wanted = Wanted(None, {})

    def _read(self, whole: bytes) -> None:
        length = _json_length(self._json_length, len(whole))
        value = _parsed(whole[:length])
        parameters = _parameters(value, "the request")
        self._found.top_k.append(("parameters", parameters.get("top_k")))
        self._found.instances = True
        self._found.photos, self._found.texts = _photos_and_texts(value, memoryview(whole)[length:])
        identity = value.get("id")
        if identity is not None and not isinstance(identity, str):
            raise DoorError(f"id is a {type(identity).__name__}, expected a string")
        if len(identity or "") > MAX_FIELD_BYTES:  # it is written into the answer
            raise DoorError(f"id has {len(identity or ''):,} characters, the limit is {MAX_FIELD_BYTES:,}")
        self.wanted = Wanted(identity, _outputs(value.get("outputs", []), parameters.get("binary_data_output") is True))


def _json_length(given: str | None, size: int) -> int:
    """Bytes of JSON at the body's start."""
    if given is None:
        return size
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) <= size):
        raise DoorError(
            f"Inference-Header-Content-Length is {given[:20]!r}, expected the bytes of JSON in the body, at most {size}"
        )
    return int(given)


def _parsed(content: bytes) -> dict[str, Any]:
    # a number in a list is the smallest of values, and only they may be many
    if content.count(b"[") + content.count(b"{") > MAX_JSON_VALUES or content.count(b",") > MAX_NUMBERS:
        raise DoorError(
            f"the JSON holds over {MAX_JSON_VALUES:,} lists and objects, or over {MAX_NUMBERS:,} values: the limits", 413
        )
    return json_object(content, '{"inputs": [...]}')


def _parameters(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise DoorError(f"the parameters of {where} are a {type(parameters).__name__}, expected an object")
    if "shared_memory_region" in parameters:
        raise DoorError(f"{where} names shared memory, which is not offered: send the bytes")
    return parameters


def _photos_and_texts(value: Mapping[str, Any], binary: memoryview) -> tuple[list[bytes], list[str]]:
    """(photos, texts) of the inputs, as many of the one as of the other: b"" for no photo, "" for no text."""
    tensors = _tensors(value.get("inputs"))
    parts = _binary_parts(tensors, binary)
    found = {name: _elements(name, tensor, parts.get(name)) for name, tensor in tensors.items()}
    photos, texts = found.get(INPUT, []), [text_of(text, f"element {i} of {TEXT!r}") for i, text in enumerate(found.get(TEXT, []))]
    if photos and texts and len(photos) != len(texts):
        raise DoorError(
            f"the request holds {counted(len(photos), 'photo')} and {counted(len(texts), 'text')}, expected one for each"
        )
    if not photos and not all(texts):
        raise DoorError(f"element {texts.index('')} of {TEXT!r} has no word, and the request holds no {INPUT!r}")
    return photos or [b""] * len(texts), texts or [""] * len(photos)


def _binary_parts(tensors: Mapping[str, Mapping[str, Any]], binary: memoryview) -> dict[str, memoryview]:
    """The bytes of each tensor that has a binary_data_size: they follow the JSON in the order of the inputs."""
    sizes: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if (size := _parameters(tensor, repr(name)).get("binary_data_size")) is not None:
            sizes[name] = size
    if len(binary) and not sizes:
        raise DoorError(f"{len(binary):,} bytes follow the JSON, and no input has binary_data_size")
    if any(type(size) is not int or size < 0 for size in sizes.values()) or sum(sizes.values()) != len(binary):
        of, shown = " and ".join(map(repr, sizes)), " and ".join(str(size)[:40] for size in sizes.values())
        raise DoorError(f"binary_data_size of {of} is {shown}, and {len(binary):,} bytes follow the JSON")
    parts, at = {}, 0
    for name, size in sizes.items():
        parts[name] = binary[at : at + size]
        at += size
    return parts


def _tensors(inputs: Any) -> dict[str, dict[str, Any]]:
    """The inputs by name."""
    expected = f"expected a list of one input, {INPUT!r}, and for models that read texts {TEXT!r} beside it or alone"
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= 2 or not all(isinstance(tensor, dict) for tensor in inputs):
        found = f"{len(inputs)} inputs" if isinstance(inputs, list) else f"inputs: {str(inputs)[:40]}"
        raise DoorError(f"the request holds {found}, {expected}")
    for tensor in inputs:
        if tensor.get("name") not in (INPUT, TEXT):
            raise DoorError(f"the input is {str(tensor.get('name'))[:40]!r}, {expected}")
    tensors = {tensor["name"]: tensor for tensor in inputs}
    if len(tensors) < len(inputs):
        raise DoorError(f"the request holds two inputs {inputs[0]['name']!r}, {expected}")
    return tensors


def _elements(name: str, tensor: Mapping[str, Any], content: memoryview | None) -> list[Any]:
    """A tensor's photos as bytes, or its texts as strings or bytes; `content` is its part of the binary form."""
    datatype, shape = tensor.get("datatype"), _shape(name, tensor.get("shape"))
    if datatype != "BYTES" and (datatype != "UINT8" or name == TEXT):
        element = "a photo an element, or UINT8, a photo's bytes" if name == INPUT else "a text an element"
        raise DoorError(f"the datatype of {name!r} is {str(datatype)[:40]!r}, expected BYTES, {element}")
    if content is None:
        elements = _from_json(name, tensor.get("data"), datatype)
    elif datatype == "UINT8":
        elements = [bytes(content)]
    else:
        elements = [photo_of(one) if name == INPUT else one for one in _from_binary(name, content)]
    return _shaped(name, elements, datatype, shape)


def _shape(name: str, shape: Any) -> list[int]:
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2 or any(type(n) is not int or n < 1 for n in shape):
        noun, raw = ("photos", ", for UINT8 [bytes] or [1, bytes]") if name == INPUT else ("texts", "")
        raise DoorError(f"the shape of {name!r} is {str(shape)[:40]}, expected [{noun}] or [{noun}, 1]{raw}")
    return shape


def _shaped(name: str, elements: list[Any], datatype: str, shape: Sequence[int]) -> list[Any]:
    """The elements, if they are as many as the shape says."""
    found = len(elements) if datatype == "BYTES" else len(elements[0])
    if math.prod(shape) != found or (len(shape) == 2 and shape[1 if datatype == "BYTES" else 0] != 1):
        noun = "bytes" if datatype != "BYTES" else "photos" if name == INPUT else "texts"
        raise DoorError(f"the shape of {name!r} is {list(shape)}, and its data holds {found:,} {noun}")
    if len(elements) > MAX_INSTANCES:
        noun = "photo" if name == INPUT else "text"
        raise DoorError(f"the request holds {counted(len(elements), noun)}, the limit is {MAX_INSTANCES}", 413)
    return elements


def _from_json(name: str, data: Any, datatype: str) -> list[Any]:
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]  # nested as the shape is: [[...]] of [1, N]
    if isinstance(data, list) and datatype == "BYTES":
        data = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in data]  # [[...], [...]] of [N, 1]
    if not isinstance(data, list) or not data:
        raise DoorError(f"the data of {name!r} is {str(data)[:40]}, expected a list of its elements, or binary_data_size")
    if datatype == "UINT8":
        try:
            return [bytes(data)]
        except (TypeError, ValueError) as error:
            raise DoorError(f"the data of {name!r} is not all whole numbers from 0 to 255: {error}") from error
    for number, element in enumerate(data):
        if not isinstance(element, str):
            what = "base64 in a string" if name == INPUT else "a string"
            raise DoorError(f"element {number} of {name!r} is a {type(element).__name__}, expected {what}")
    return [from_base64(element, f"element {i} of {name!r}") for i, element in enumerate(data)] if name == INPUT else data


def _from_binary(name: str, content: memoryview) -> list[bytes]:
    """Elements, each after its length in four bytes, little-endian."""
    elements: list[bytes] = []
    at = 0
    while at < len(content) and len(elements) <= MAX_INSTANCES:
        if at + 4 > len(content) or (end := at + 4 + int.from_bytes(content[at : at + 4], "little")) > len(content):
            raise DoorError(
                f"the data of {name!r} breaks off in element {len(elements)}: each begins with its length in four bytes"
            )
        elements.append(bytes(content[at + 4 : end]))
        at = end
    return elements


def _outputs(outputs: Any, binary: bool) -> dict[str, bool]:
    """Whether each wanted output is wanted in binary."""
    if outputs == []:
        return dict.fromkeys(OUTPUTS, binary)
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise DoorError(f"outputs is {str(outputs)[:40]}, expected a list of objects with a name")
    wanted = {}
    for output in outputs:
        name = output.get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            raise DoorError(f"the output {str(name)[:40]!r} does not exist, expected {', '.join(OUTPUTS)}")
        parameters = _parameters(output, f"the output {name!r}")
        if "classification" in parameters:
            raise DoorError(
                "the extension classification is not offered: top_k in the request's parameters is the number of classes"
            )
        wanted[name] = parameters.get("binary_data", binary) is True
    return wanted


def packed(datatype: str, values: Sequence[Any]) -> bytes:
    """Values as a tensor's bytes: little-endian, row after row; strings each after their length in four bytes."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text)) + text for text in (value.encode() for value in values))
    code = next(code for kind, code in OUTPUTS.values() if kind == datatype)
    return struct.pack(f"<{len(values)}{code}", *values)
