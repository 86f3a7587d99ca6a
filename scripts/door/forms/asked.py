"""What a request asks: its photos with their texts, and how many classes an answer shall have."""

import re
from dataclasses import dataclass, field
from typing import Any

from handler.text import TextError, check_text, decode_text
from scripts.door.errors import DoorError
from scripts.phrases import counted

PHOTO_FIELDS = ("image", "data", "body", "file", "photo")


@dataclass(frozen=True)
class Asked:
    """What a request asks. `instances`: one answer for each photo is expected, in KServe's form.

    `texts`: one for each photo, "" for none; a text alone has an empty photo.
    """

    photos: list[bytes]
    texts: list[str]
    top_k: int | None
    instances: bool = False

    def only_photo(self) -> bytes:
        """The one photo. DoorError for several."""
        if len(self.photos) > 1:
            raise DoorError(
                f"the request holds {counted(len(self.photos), 'photo')}, expected one: "
                "/v1/models/MODEL:predict takes several instances"
            )
        return self.photos[0]


@dataclass
class Found:
    """Photos, texts and values for top_k, as they are found.

    `text`: where the request's one text stands, and what it is; `texts`: one for each photo of several instances.
    """

    photos: list[bytes] = field(default_factory=list)
    text: list[tuple[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    top_k: list[tuple[str, Any]] = field(default_factory=list)
    instances: bool = False

    def asked(self) -> Asked:
        """All of it, checked. DoorError."""
        texts = self._checked_texts()
        if not self.photos and any(texts):
            self.photos.append(b"")
        if not self.photos:
            raise DoorError(f"the request holds no photo: send it as the body, or as a field called {PHOTO_FIELDS[0]}")
        if len(self.photos) > 1 and not self.instances:
            raise DoorError(f"the request holds {counted(len(self.photos), 'photo')}, expected one: send a request for each")
        numbers = [(_number(value), where) for where, value in self.top_k if value not in (None, "")]
        if len({number for number, _ in numbers}) > 1:
            found = " and ".join(f"{number} ({where})" for number, where in numbers)
            raise DoorError(f"top_k is given more than once, and differs: {found}")
        return Asked(self.photos, texts, numbers[0][0] if numbers else None, self.instances)

    def _checked_texts(self) -> list[str]:
        """One for each photo."""
        found = [(text, where) for where, value in self.text if (text := text_of(value, where))]
        if found and self.instances:
            raise DoorError(f"the text stands in {found[0][1]}, expected one in each instance")
        if len({text for text, _ in found}) > 1:
            raise DoorError(f"the text is given more than once, and differs: {' and '.join(where for _, where in found)}")
        return self.texts or [found[0][0] if found else ""] * max(1, len(self.photos))


def text_of(value: Any, where: str) -> str:
    """A text: a string, or bytes of UTF-8; "" for none. DoorError."""
    try:
        if isinstance(value, bytes | bytearray):
            return decode_text(bytes(value))
        if value is None:
            return ""
        if not isinstance(value, str):
            raise TextError(f"the text is a {type(value).__name__}, expected a string")
        return check_text(value)
    except TextError as error:
        raise DoorError(f"{where}: {error}", error.status) from error


def _number(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    text = bytes(value).decode("latin-1") if isinstance(value, bytes | bytearray) else str(value)
    if isinstance(value, bool | float | list | dict) or not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII) or int(text) < 1:
        raise DoorError(f"top_k is {text[:40]!r}, expected a whole number from 1")
    return int(text)
