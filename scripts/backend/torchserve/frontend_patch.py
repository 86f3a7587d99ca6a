"""Two corrections of TorchServe 0.12's front end, which gets no more fixes: one class each, a few bytes in it.

`curl --data-binary @photo.jpg` is answered, not refused with a 500: curl labels such a body
application/x-www-form-urlencoded unless told otherwise, and the front end then decodes the photo's bytes as form fields and
fails. The class that does so looks for that content type by the name of a constant. With another constant's name in its
place, a body under that label is a raw body like any other; multipart forms, recognised in another way, work as before.

A batch takes what already waits, up to batchSize, and waits for no more: the front end waits up to maxBatchDelay for each
further request, a millisecond at the least, in which a lone request gains nothing; and while the worker is busy, batches
fill by themselves. With the constant 0 in place of that wait's length the poll returns at once.

The corrected classes lie in TorchServe's working folder, which comes first on its class path; the installed jar stays as
it is.
"""

import importlib.util
import re
import zipfile
from pathlib import Path


def _constant(name: bytes) -> bytes:
    # a UTF-8 entry of a class file's constant pool: tag 1, two bytes of length, the text (JVM specification, 4.4.7)
    return b"\x01" + len(name).to_bytes(2, "big") + name


# class: (what is found in it, once, and what comes in its place)
CORRECTIONS: dict[str, tuple[re.Pattern[bytes], bytes]] = {
    # no body has the content type "chunked", so the comparison is never true again
    "org/pytorch/serve/http/api/rest/InferenceRequestHandler.class": (
        re.compile(re.escape(_constant(b"APPLICATION_X_WWW_FORM_URLENCODED"))),
        _constant(b"CHUNKED"),
    ),
    # in pollInferJob, before `getstatic TimeUnit.MILLISECONDS; invokevirtual poll; checkcast Job; astore 8`, where
    # `lload 6` puts the delay on the stack: `lconst_0; nop` instead (JVM specification, 6.5)
    "org/pytorch/serve/wlm/Model.class": (
        re.compile(rb"\x16\x06(?=\xb2..\xb6..\xc0..\x3a\x08)", re.DOTALL),
        b"\x09\x00",
    ),
}


def write_corrected_classes(working_dir: Path) -> None:
    """Put the corrected classes where TorchServe, started in `working_dir`, finds them first. ValueError for another TorchServe."""
    package = importlib.util.find_spec("ts")
    assert package is not None
    assert package.origin is not None
    with zipfile.ZipFile(Path(package.origin).parent / "frontend" / "model-server.jar") as jar:
        for name, (wrong, right) in CORRECTIONS.items():
            corrected, count = wrong.subn(right, jar.read(name))
            if count != 1:
                raise ValueError("this TorchServe is not 0.12.0: frontend_patch.py knows no other front end")
            target = working_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(corrected)
