"""What serve tells the door, a line of JSON a second on its standard input: health, models, and which versions answer.

Where no line has come for a while, serve hangs: the door is not ready then, whatever the last line said.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scripts.door.errors import DoorError

# a line comes each second; this many are late when nobody has looked
SILENT_S = 6.0


@dataclass
class State:
    """The last line, and when it came.

    `models`: by name {"default": version or null, "versions": {version: what its worker says of itself (SeefoodHandler.describe)}}
    """

    live: bool = True
    ready: bool = False
    why: str = "starting"
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    not_ready: Mapping[str, str] = field(default_factory=dict)  # why, by model
    captured_s: float | None = None  # for how many seconds photos stay on S3, None where that is not known
    at: float = field(default_factory=time.monotonic)

    def take(self, line: Mapping[str, Any]) -> None:
        """The next line."""
        self.live, self.ready, self.why = line["live"], line["ready"], line.get("why", "")
        self.captured_s, self.not_ready = line.get("captured_s"), line.get("not_ready", {})
        if line["models"] != self.models:
            self.models = line["models"]
        self.at = time.monotonic()

    @property
    def is_live(self) -> bool:
        """Whether serve's main loop runs, and tells so."""
        return self.live and not self.silent

    @property
    def silent(self) -> bool:
        """Whether serve has not been heard of for too long."""
        return time.monotonic() - self.at > SILENT_S

    def readiness(self, model: str | None = None) -> tuple[bool, dict[str, Any]]:
        """(ready, the content of /readyz): {"ready", "version"}, with "why" if it is not ready. Of one model, if it is named.

        Of several models {"ready", "models": {name: {"ready", "version"}}}, with a "why" for each that is not.
        """
        ready, why = self.ready, self.why
        if self.silent:
            ready, why = False, "the last look is too long ago"
        names = {*self.models, *self.not_ready}
        if model is None and len(names) > 1:
            parts = {name: self.readiness(name)[1] for name in sorted(names)}
            return ready, {"ready": ready, "models": parts} | ({} if ready else {"why": why})
        if model is not None and not self.silent and len(names) > 1:
            why = self.not_ready.get(model, "")
            ready = not why
        one = self.models.get(model) if model is not None else next(iter(self.models.values()), None)
        status = {"ready": ready, "version": one["default"] if one else None}
        if one and _is_unverified(one):
            status["unverified"] = True
        return ready, status if ready else status | {"why": why}

    @property
    def ours(self) -> list[str]:
        """The models whose default version's archive is ours: the others answer what they like, in no protocol but their own."""
        return [name for name, one in self.models.items() if not _is_unverified(one)]

    def chosen(self, model: str, version: str | None) -> str:
        """The version that answers: the one that is named, or the default. DoorError 404, or 503 for none yet."""
        if not self.models:
            raise DoorError(f"no model is served yet: {self.why}", 503, "UnavailableError", retry_after_s=2)
        if model not in self.models:
            raise DoorError(f"there is no model {model[:80]!r}, expected {' or '.join(sorted(self.models))}", 404, "NotFoundError")
        versions, default = self.models[model]["versions"], self.models[model]["default"]
        if version is not None and version not in versions:
            raise DoorError(
                f"{model} has no version {version[:80]!r}, expected {' or '.join(sorted(versions))}", 404, "NotFoundError"
            )
        if version is None and default not in versions:
            raise DoorError(f"no version of {model} is served yet: {self.why}", 503, "UnavailableError", retry_after_s=2)
        return version or str(default)

    def described(self, model: str, version: str) -> Mapping[str, Any]:
        """What a version says of itself."""
        described: Mapping[str, Any] = self.models[model]["versions"][version]
        return described

    def reads_text(self, model: str, version: str) -> bool:
        """Whether a version reads texts. Archives that are older than texts do not say so, and read none."""
        return "text" in self.described(model, version).get("spec", {})


def _is_unverified(model: Mapping[str, Any]) -> bool:
    """Whether the archive of its default version is not ours."""
    return bool(model.get("versions", {}).get(model.get("default"), {}).get("unverified"))
