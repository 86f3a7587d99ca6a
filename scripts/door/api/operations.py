"""The door's operations: the one table of paths, what they take and what they answer. openapi.py makes /openapi.json of it."""

from dataclasses import dataclass

PHOTO_ERRORS = (400, 404, 411, 413, 415, 422, 500, 503)


@dataclass(frozen=True)
class Operation:
    """A method and a path, with what it takes and answers by the names of schemas.py."""

    method: str
    path: str
    summary: str
    answer: str
    takes: str = ""  # "photo", "tensors", "instances", "feedback", or nothing
    errors: tuple[int, ...] = ()
    answer_types: tuple[str, ...] = ("application/json",)
    not_ready: str = ""  # the schema of a 503 that is no error


PNG = ("application/json", "image/png")
V1, V2, V2_VERSION = "/v1/models/{model}", "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
TENSORS = ("application/json", "application/octet-stream")
OPERATIONS = (
    *(
        Operation(method, f"/{kind}/{{model}}{version}", summary, answer, "photo", errors, types)
        for kind, summary, answer, errors, types in (
            ("predictions", "The classes of a photo", "Answer", PHOTO_ERRORS, ("application/json",)),
            ("explanations", "The heat map of a photo's class", "Explanation", (*PHOTO_ERRORS, 403), PNG),
        )
        for version in ("", "/{version}")
        for method in ("post", "put")
    ),
    Operation(
        "post", "/feedback", "What a photo shows, if it was kept", "Feedback", "feedback", (400, 404, 411, 413, 415, 422, 503, 507)
    ),
    Operation("get", "/livez", "Whether the server runs", "Live", not_ready="Live"),
    Operation("get", "/readyz", "Whether photos are answered", "Ready", not_ready="Ready"),
    Operation("get", "/ping", "SageMaker: whether photos are answered", "Ping", errors=(503,)),
    Operation("post", "/invocations", "SageMaker: the classes of a photo, or of several", "Invocation", "photo", PHOTO_ERRORS),
    Operation("get", "/v1/models", "KServe: the models", "Models"),
    Operation("get", V1, "KServe: whether a model is ready", "ModelReady", errors=(404, 503)),
    Operation("post", f"{V1}:predict", "KServe: the classes of several photos", "Predictions", "instances", PHOTO_ERRORS),
    Operation(
        "post", f"{V1}:explain", "KServe: the heat maps of several photos", "Explanations", "instances", (*PHOTO_ERRORS, 403)
    ),
    Operation("get", "/v2", "Open inference protocol: the server", "Server"),
    Operation("get", "/v2/health/live", "Open inference protocol: whether the server runs", "Live", not_ready="Live"),
    Operation("get", "/v2/health/ready", "Open inference protocol: whether photos are answered", "Ready", not_ready="Ready"),
    *(
        operation
        for path in (V2, V2_VERSION)
        for operation in (
            Operation("get", path, "Open inference protocol: a model's inputs and outputs", "Model", errors=(404, 503)),
            Operation("get", f"{path}/ready", "Open inference protocol: whether a model is ready", "ModelReady", errors=(404, 503)),
            Operation(
                *("post", f"{path}/infer", "Open inference protocol: the classes of several photos", "Inference", "tensors"),
                *(PHOTO_ERRORS, TENSORS),
            ),
        )
    ),
    Operation("get", "/openapi.json", "This description", "Description"),
)
