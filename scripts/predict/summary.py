"""What became of the photos, in a few lines: how many failed and why, and which versions answered."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from scripts.phrases import counted

NAMES = 3  # of photos, for each reason
REASONS = 50  # with more, the others are counted together


def version_of(row: Mapping[str, Any]) -> str:
    """The model and the version that answered."""
    return f"{row.get('model', '')} {row.get('version', '')}".strip()


class Summary:
    """Counts of rows, in little memory whatever their number."""

    def __init__(self) -> None:
        self.photos = self.failed = 0
        self.versions: Counter[str] = Counter()
        self._reasons: dict[str, tuple[str, list[str]]] = {}  # by the message without its numbers
        self._failures: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self.photos += 1
        if "predictions" in row:
            self.versions[version_of(row)] += 1
            return
        self.failed += 1
        reason = re.sub(r"\d[\d,.]*", "#", row["message"])
        if reason not in self._reasons and len(self._reasons) >= REASONS:
            reason = ""
        _, names = self._reasons.setdefault(reason, (row["message"] if reason else "other reasons", []))
        self._failures[reason] += 1
        if len(names) < NAMES:
            names.append(row["photo"])

    def failures(self) -> str:
        """A line for each reason, the most frequent first; "" if nothing failed."""
        if not self.failed:
            return ""
        lines = [f"{self.failed} of {counted(self.photos, 'photo')} failed:"]
        for reason, count in self._failures.most_common():
            message, names = self._reasons[reason]
            more = f" and {count - len(names)} more" if count > len(names) else ""
            lines.append(f"  {count}: {message} ({', '.join(map(repr, names))}{more})")
        return "\n".join(lines)

    def changed(self) -> str:
        """A line if several versions answered; else ""."""
        if len(self.versions) < 2:
            return ""
        listed = ", ".join(f"{version} ({counted(count, 'photo')})" for version, count in self.versions.most_common())
        return f"several versions answered, as the server's release changed meanwhile: {listed}; the column version says which"
