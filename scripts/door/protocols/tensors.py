"""The open inference protocol's request: JSON, and after it in the binary form the tensors' bytes -> photos and wanted outputs.

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
from scripts.door.forms.base64_text import from_base64, photo_of
from scripts.door.forms.body import Body
from scripts.door.forms.json_form import json_object
from scripts.door.forms.limits import MAX_FIELD_BYTES, MAX_INSTANCES, MAX_JSON_VALUES
from scripts.phrases import counted

INPUT = "image"
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
        self._found.photos += _photos(value, memoryview(whole)[length:])
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


def _photos(value: Mapping[str, Any], binary: memoryview) -> list[bytes]:
    """The photos of the one input."""
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        found = f"{len(inputs)} inputs" if isinstance(inputs, list) else f"inputs: {str(inputs)[:40]}"
        raise DoorError(f"the request holds {found}, expected a list of one input, {INPUT!r}")
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise DoorError(f"the input is {str(tensor.get('name'))[:40]!r}, expected {INPUT!r}")
    datatype, shape = tensor.get("datatype"), _shape(tensor.get("shape"))
    if datatype not in ("BYTES", "UINT8"):
        raise DoorError(
            f"the datatype of {INPUT!r} is {str(datatype)[:40]!r}, expected BYTES, a photo an element, or UINT8, a photo's bytes"
        )
    size = _parameters(tensor, repr(INPUT)).get("binary_data_size")
    if size is None:
        if len(binary):
            raise DoorError(f"{len(binary):,} bytes follow the JSON, and no input has binary_data_size")
        elements = _from_json(tensor.get("data"), datatype)
    elif type(size) is not int or size != len(binary):
        raise DoorError(f"binary_data_size of {INPUT!r} is {str(size)[:40]}, and {len(binary):,} bytes follow the JSON")
    else:
        elements = _from_binary(binary) if datatype == "BYTES" else [bytes(binary)]
    return _shaped(elements, datatype, shape)


def _shape(shape: Any) -> list[int]:
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2 or any(type(n) is not int or n < 1 for n in shape):
        raise DoorError(
            f"the shape of {INPUT!r} is {str(shape)[:40]}, expected [photos] or [photos, 1], for UINT8 [bytes] or [1, bytes]"
        )
    return shape


def _shaped(elements: list[bytes], datatype: str, shape: Sequence[int]) -> list[bytes]:
    """The elements, if they are as many as the shape says."""
    found = len(elements) if datatype == "BYTES" else len(elements[0])
    if math.prod(shape) != found or (len(shape) == 2 and shape[1 if datatype == "BYTES" else 0] != 1):
        noun = "photos" if datatype == "BYTES" else "bytes"
        raise DoorError(f"the shape of {INPUT!r} is {list(shape)}, and its data holds {found:,} {noun}")
    if len(elements) > MAX_INSTANCES:
        raise DoorError(f"the request holds {counted(len(elements), 'photo')}, the limit is {MAX_INSTANCES}", 413)
    return elements


def _from_json(data: Any, datatype: str) -> list[bytes]:
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]  # nested as the shape is: [[...]] of [1, N]
    if isinstance(data, list) and datatype == "BYTES":
        data = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in data]  # [[...], [...]] of [N, 1]
    if not isinstance(data, list) or not data:
        raise DoorError(f"the data of {INPUT!r} is {str(data)[:40]}, expected a list of its elements, or binary_data_size")
    if datatype == "UINT8":
        try:
            return [bytes(data)]
        except (TypeError, ValueError) as error:
            raise DoorError(f"the data of {INPUT!r} is not all whole numbers from 0 to 255: {error}") from error
    for number, element in enumerate(data):
        if not isinstance(element, str):
            raise DoorError(f"element {number} of {INPUT!r} is a {type(element).__name__}, expected base64 in a string")
    return [from_base64(element, f"element {number} of {INPUT!r}") for number, element in enumerate(data)]


def _from_binary(content: memoryview) -> list[bytes]:
    """Elements, each after its length in four bytes, little-endian."""
    elements: list[bytes] = []
    at = 0
    while at < len(content) and len(elements) <= MAX_INSTANCES:
        if at + 4 > len(content) or (end := at + 4 + int.from_bytes(content[at : at + 4], "little")) > len(content):
            raise DoorError(
                f"the data of {INPUT!r} breaks off in element {len(elements)}: each begins with its length in four bytes"
            )
        elements.append(photo_of(bytes(content[at + 4 : end])))
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
