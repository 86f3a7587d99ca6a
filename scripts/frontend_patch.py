"""One correction of TorchServe's front end: `curl --data-binary @photo.jpg` is answered, not refused with a 500.

curl labels such a body application/x-www-form-urlencoded unless told otherwise, and TorchServe 0.12, which gets no more
fixes, then decodes the photo's bytes as form fields and fails. The class that does so looks for that content type by
the name of a constant. With another constant's name in its place, a body under that label is a raw body like any other;
multipart forms, which it recognises in another way, work as before. The corrected class lies in TorchServe's working
folder, which comes first on its class path; the installed jar stays as it is.
"""

import importlib.util
import zipfile
from pathlib import Path

CLASS = "org/pytorch/serve/http/api/rest/InferenceRequestHandler.class"
# no body has the content type "chunked", so the comparison is never true again
WRONG, RIGHT = b"APPLICATION_X_WWW_FORM_URLENCODED", b"CHUNKED"


def _constant(name: bytes) -> bytes:
    # a UTF-8 entry of a class file's constant pool: tag 1, two bytes of length, the text (JVM specification, 4.4.7)
    return b"\x01" + len(name).to_bytes(2, "big") + name


def write_corrected_class(working_dir: Path) -> None:
    """Put the corrected class where TorchServe, started in `working_dir`, finds it first. ValueError for another TorchServe."""
    package = importlib.util.find_spec("ts")
    assert package is not None
    assert package.origin is not None
    with zipfile.ZipFile(Path(package.origin).parent / "frontend" / "model-server.jar") as jar:
        content = jar.read(CLASS)
    if content.count(_constant(WRONG)) != 1:
        raise ValueError("this TorchServe is not 0.12.0: scripts/frontend_patch.py does not know its front end")
    target = working_dir / CLASS
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.replace(_constant(WRONG), _constant(RIGHT)))
