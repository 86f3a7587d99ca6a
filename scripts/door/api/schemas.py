"""JSON schemas of what the door takes and answers, for /openapi.json."""

from typing import Any

from handler.text import MAX_BYTES, MAX_CHARACTERS
from scripts.door.forms.limits import MAX_INSTANCES
from scripts.door.protocols.tensors import INPUT, OUTPUTS
from scripts.door.protocols.tensors import TEXT as TEXT_INPUT

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
# a picture of 8 x 8 pixels
EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGM8UaHBgA0wYRUdtBIAHicBeAYWg8oAAAAASUVORK5CYII="
BASE64: Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "minLength": 4,
    "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)$",
    "description": "a photo as base64; also with line breaks, without padding, or as a data URL",
    "examples": [EXAMPLE],
}
TOP_K: Schema = {"type": "integer", "minimum": 1, "maximum": 999_999_999, "description": "number of classes to answer with"}

WORDS: Schema = {
    "type": "string",
    "maxLength": MAX_CHARACTERS,
    "description": f"what was written beside the photo; at most {MAX_BYTES:,} bytes of UTF-8. For models that read texts: others "
    "answer 400",
}
# of a text that comes alone: a letter or a digit, of whatever script
A_WORD: Schema = {"type": "string", "pattern": r"[^\W_]"}


def ref(name: str) -> Schema:
    """A schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, **more}


def record(**members: Schema) -> Schema:
    """An object that has all of these members."""
    return {"type": "object", "properties": members, "required": list(members)}


def with_words(photo: Schema, reads_text: bool, words: Schema = WORDS | {"type": ["string", "null"]}) -> Schema:
    """An object with a photo; where texts are read one may stand beside it, or alone. In JSON null is none."""
    if not reads_text:
        return photo
    either = [{"required": photo["required"]}, {"required": ["text"], "properties": {"text": A_WORD}}]
    return {"type": "object", "properties": {**photo["properties"], "text": words}, "anyOf": either}


def takes(kind: str, reads_text: bool = False) -> Schema:
    """The content of a request body, by content type; `reads_text`: a model that is served reads texts."""
    if kind == "photo":
        fields = with_words(record(image=BASE64), reads_text)
        file = {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}
        # a part of a form has a name
        form = with_words(record(image=file), reads_text, WORDS) | {"propertyNames": {"minLength": 1}}
        return {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}},
            "multipart/form-data": {"schema": form},
            "application/x-www-form-urlencoded": {"schema": with_words(record(image=BASE64), reads_text, WORDS)},
            "application/json": {"schema": fields, "example": {"image": EXAMPLE}},
        }
    if kind == "instances":
        inside = record(b64=BASE64)
        forms = [
            BASE64,
            *(with_words(form, reads_text) for form in (record(image=BASE64), record(image=inside), record(image_bytes=inside))),
        ]
        schema = record(instances=array({"anyOf": forms}, minItems=1, maxItems=MAX_INSTANCES))
        return {"application/json": {"schema": schema, "example": {"instances": [{"image": {"b64": EXAMPLE}}]}}}
    if kind == "feedback":
        example = {"id": "5f1b2c3d", "label": "ramen"}
        return {"application/json": {"schema": feedback() | {"additionalProperties": False}, "example": example}}
    outputs = array(record(name={"enum": list(OUTPUTS)}))
    may_have = {
        "id": {"type": ["string", "null"]},
        "parameters": {"type": "object", "properties": {"top_k": TOP_K | {"type": ["integer", "null"]}}},
        "outputs": outputs,
    }
    schema = record(inputs=_inputs(reads_text))
    schema["properties"] |= may_have
    one = {"name": INPUT, "datatype": "BYTES", "shape": [1], "data": [EXAMPLE]}
    return {"application/json": {"schema": schema, "example": {"inputs": [one]}}}


def _inputs(reads_text: bool) -> Schema:
    """The photos; where texts are read as many of these behind them, or alone."""
    numbers = range(1, MAX_INSTANCES + 1)
    photos = array({"anyOf": [_tensor(INPUT, BASE64, number) for number in numbers]}, minItems=1, maxItems=1)
    if not reads_text:
        return photos
    alone = array({"anyOf": [_tensor(TEXT_INPUT, WORDS | A_WORD, number) for number in numbers]}, minItems=1, maxItems=1)
    pairs = [[_tensor(INPUT, BASE64, number), _tensor(TEXT_INPUT, WORDS, number)] for number in numbers]
    both = [{"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2} for pair in pairs]
    return {"anyOf": [photos, alone, *both]}


def _tensor(name: str, element: Schema, number: int) -> Schema:
    data = array(element, minItems=number, maxItems=number)
    return record(name={"const": name}, datatype={"const": "BYTES"}, shape={"const": [number]}, data=data)


def feedback() -> Schema:
    """What a person says that a photo shows."""
    of = {"description": "the x-request-id of the answer; of several photos in a request, ID/N from 0"}
    label = {"type": ["string", "null"], "description": "one of the version's classes, or null for none of them"}
    return record(id=TEXT | of, label=label)


def answers() -> dict[str, Schema]:
    """The schemas of answers, by name."""
    found = {"label": TEXT, "index": INTEGER, "probability": NUMBER}
    version = {"model": TEXT, "version": TEXT}
    prediction, whole = record(**found), {"sure": BOOLEAN, **version}
    parts = {"grid": array(array(NUMBER)), "grid_size": array(INTEGER), "covers": {}}
    output = record(name=TEXT, datatype=TEXT, shape=array(INTEGER))
    predictions = record(predictions=array(ref("Answer")))
    return {
        "Error": record(code=INTEGER, type=TEXT, message=TEXT, request_id=TEXT),
        "Answer": record(predictions=array(prediction), **whole),
        "Explanation": record(**found, **parts, **whole),
        "Feedback": record(**feedback()["properties"], at=TEXT, **version),
        "Live": record(live=BOOLEAN),
        "Ready": record(ready=BOOLEAN),  # of several models "models", too: what it says of each
        "Ping": record(status={"const": "Healthy"}),
        "Invocation": {"anyOf": [ref("Answer"), predictions]},
        "Models": record(models=array(TEXT)),
        "ModelReady": record(name=TEXT, ready=BOOLEAN),
        "Predictions": predictions,
        "Explanations": record(predictions=array(record(**found, **whole)), explanations=array(ref("Explanation"))),
        "Server": record(name=TEXT, version=TEXT, extensions=array(TEXT)),
        "Model": record(
            name=TEXT,
            versions=array(TEXT),
            platform=TEXT,
            inputs=array(output),
            outputs=array(output),
            parameters=record(labels=array(TEXT)),
        ),
        "Inference": record(model_name=TEXT, model_version=TEXT, outputs=array(output)),
        "Description": record(openapi={"const": "3.1.0"}),
    }
