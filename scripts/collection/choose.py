"""Which source SOURCE means: KIND:ADDRESS, or an address whose kind is plain to see."""

import os
from collections.abc import Callable

from scripts.collection.source import Source
from scripts.collection.sources.captured import Captured
from scripts.collection.sources.folder import Folder
from scripts.collection.sources.reddit import Reddit
from scripts.collection.sources.urls import Urls
from scripts.collection.web.client import Web
from scripts.predict.bucket import SCHEME
from scripts.settings import Settings

KINDS = "captured", "folder", "s3", "urls", "reddit"


def choose(text: str, reviewed: bool, settings: Settings, model: str | None = None) -> Source:
    """The source; of captured photos with `reviewed` only those with feedback, with `model` only those that it answered.

    ValueError if SOURCE names none.
    """
    kind, address = _split(text)
    if kind == "captured" and not address:
        address = settings.capture_dir
        if not address:
            raise ValueError("SOURCE is captured: which photos? SOURCE=captured:FOLDER, or SEEFOOD_CAPTURE_DIR in the environment")
    if reviewed and kind != "captured":
        raise ValueError(f"REVIEWED is for captured photos, SOURCE is {text!r}: leave it out")
    if model is not None and kind != "captured":
        raise ValueError(f"MODEL is for captured photos, which a model has answered, SOURCE is {text!r}: leave it out")
    sources: dict[str, Callable[[], Source]] = {
        "captured": lambda: Captured(address, reviewed, model),
        "folder": lambda: Folder(address),
        "s3": lambda: Folder(address),
        "urls": lambda: Urls(address, Web(settings)),
        "reddit": lambda: Reddit(address, Web(settings)),
    }
    return sources[kind]()


def _split(text: str) -> tuple[str, str]:
    """(kind, address). A prefix that is a kind wins; s3:// is no such prefix."""
    kind, colon, rest = text.partition(":")
    if text == "captured" and not os.path.isdir(text):  # noqa: PTH112 - a name, not a path yet
        return "captured", ""
    if colon and kind in KINDS and not text.startswith(SCHEME):
        return kind, rest
    if text.rstrip("/").rpartition("/")[2] == "captured":  # as a server's folder is called
        return "captured", text
    if text.startswith(SCHEME):
        return "s3", text
    return ("urls" if text.lower().endswith((".csv", ".tsv")) else "folder"), text
