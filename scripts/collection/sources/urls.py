"""The photos of a CSV of web addresses: a column `url`, and one with the `title` if there is one."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scripts.collection.source import Fetched, Found, clean_title
from scripts.collection.web.client import Web

URL, TITLE = ("url", "address", "link"), "title"


class Urls:
    """See the module. `web` asks politely, and for no private address."""

    kind = "urls"

    def __init__(self, path: str, web: Web) -> None:
        """ValueError if there is no such file."""
        if not Path(path).is_file():
            raise ValueError(f"SOURCE names {path!r}, expected a CSV with a column {URL[0]!r}: there is no such file")
        self.address, self._web = os.path.realpath(path), web

    def found(self, passed: Counter[str]) -> Iterator[Found]:
        """See Source."""
        # utf-8-sig: spreadsheets write a byte-order mark
        with Path(self.address).open(encoding="utf-8-sig", errors="replace", newline="") as file:
            head = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",;\t", key=head.count), strict=True)
            try:
                yield from self._rows(rows, passed)
            except csv.Error as error:
                raise ValueError(f"{self.address}, line {rows.line_num}: {error}: is a quote left open?") from error

    def _rows(self, rows: Iterator[list[str]], passed: Counter[str]) -> Iterator[Found]:
        header = [name.strip().lower() for name in next(rows, [])]
        column = next((header.index(name) for name in URL if name in header), None)
        if column is None:
            raise ValueError(f"{self.address} has the columns {', '.join(header) or 'none'}: expected one named {' or '.join(URL)}")
        titles = header.index(TITLE) if TITLE in header else None
        for row in rows:
            url = row[column].strip() if column < len(row) else ""
            if not url:
                passed["line without an address"] += bool(row)
                continue
            title = row[titles] if titles is not None and titles < len(row) else None
            yield Found(url, "", lambda url=url, title=title: Fetched(self._web.photo(url), title=clean_title(title)))  # type: ignore[misc]
