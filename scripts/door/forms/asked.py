"""What a request asks: its photos, and how many classes an answer shall have."""

import re
from dataclasses import dataclass, field
from typing import Any

from scripts.door.errors import DoorError
from scripts.phrases import counted

PHOTO_FIELDS = ("image", "data", "body", "file", "photo")


@dataclass(frozen=True)
class Asked:
    """What a request asks. `instances`: one answer for each photo is expected, in KServe's form."""

    photos: list[bytes]
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
    """Photos and values for top_k, as they are found."""

    photos: list[bytes] = field(default_factory=list)
    top_k: list[tuple[str, Any]] = field(default_factory=list)
    instances: bool = False

    def asked(self) -> Asked:
        """All of it, checked. DoorError."""
        if not self.photos:
            raise DoorError(f"the request holds no photo: send it as the body, or as a field called {PHOTO_FIELDS[0]}")
        if len(self.photos) > 1 and not self.instances:
            raise DoorError(f"the request holds {counted(len(self.photos), 'photo')}, expected one: send a request for each")
        numbers = [(_number(value), where) for where, value in self.top_k if value not in (None, "")]
        if len({number for number, _ in numbers}) > 1:
            found = " and ".join(f"{number} ({where})" for number, where in numbers)
            raise DoorError(f"top_k is given more than once, and differs: {found}")
        return Asked(self.photos, numbers[0][0] if numbers else None, self.instances)


def _number(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    text = bytes(value).decode("latin-1") if isinstance(value, bytes | bytearray) else str(value)
    if isinstance(value, bool | float | list | dict) or not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII) or int(text) < 1:
        raise DoorError(f"top_k is {text[:40]!r}, expected a whole number from 1")
    return int(text)
