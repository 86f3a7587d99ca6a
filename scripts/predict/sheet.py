"""The contact sheet: one page of HTML with photos by class, the unsure first, and the failures with their reasons.

It stands alone: pictures and style are in it, there is no script, and nothing is fetched.
"""

import html
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scripts.folders import shown
from scripts.page_style import style_of
from scripts.paths import ROOT
from scripts.phrases import counted
from scripts.predict.bucket import SCHEME
from scripts.predict.chosen import Chosen, Class, Row
from scripts.predict.thumbnails import Thumbnails

STYLE = Path(__file__).with_name("sheet.css")
# whatever a name may hold, nothing runs and nothing is fetched
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_sheet(chosen: Chosen, path: Path, title: str, table: str) -> None:
    """Write the page. `title`: what was labelled; `table`: the file with all rows. OSError."""
    thumbnails = Thumbnails(ROOT / "handler" / "model-config.yaml")
    # links lead from the page's last place, and the path is a temporary one beside it
    folder = None if table.startswith(SCHEME) else Path(table).resolve().parent
    with path.open("w", encoding="utf-8") as out:
        for part in _page(chosen, thumbnails, folder, title, table):
            out.write(part)


def _page(chosen: Chosen, thumbnails: Thumbnails, folder: Path | None, title: str, table: str) -> Iterator[str]:
    unsure = sum(found.unsure for found in chosen.classes)
    yield (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}: photos by class</title>\n<style>\n{style_of(STYLE)}</style>\n"
        f"</head>\n<body>\n<header>\n<h1>{_text(title)}</h1>\n"
        f"<p>{chosen.photos:,} photos, {len(chosen.classes):,} classes; <b>{unsure:,} unsure</b>, <b>{chosen.failed:,} failed</b>. "
        f"By {_text(', '.join(chosen.versions) or 'no model')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. "
        f"All rows: <code>{_text(Path(table).name)}</code></p>\n"
    )
    yield _contents(chosen)
    yield "</header>\n<main>\n"
    for number, found in enumerate(chosen.classes):
        yield from _class(number, found, thumbnails, folder)
    if chosen.failed:
        yield _failures(chosen)
    yield "</main>\n</body>\n</html>\n"


def _contents(chosen: Chosen) -> str:
    most = max((found.photos for found in chosen.classes), default=1)
    lines = [
        f'<li><a href="#c{number}"><span class="name">{_text(found.label)}</span> <span class="count">{found.photos:,}'
        f"{f' <small>{found.unsure:,} unsure</small>' if found.unsure else ''}</span>"
        f'<span class="bar" style="inline-size:{100 * found.photos / most:.1f}%"></span></a></li>\n'
        for number, found in enumerate(chosen.classes)
    ]
    if chosen.failed:
        lines.append(
            f'<li><a href="#failed"><span class="name">Failed</span> <span class="count">{chosen.failed:,}</span></a></li>\n'
        )
    return f'<nav aria-label="Classes"><ul>\n{"".join(lines)}</ul></nav>\n'


def _class(number: int, found: Class, thumbnails: Thumbnails, folder: Path | None) -> Iterator[str]:
    unsure = f", {found.unsure:,} unsure" if found.unsure else ""
    yield (
        f'<section id="c{number}" aria-labelledby="h{number}">\n<h2 id="h{number}">{_text(found.label)} '
        f"<small>{counted(found.photos, 'photo') if found.photos < 1000 else f'{found.photos:,} photos'}{unsure}</small></h2>\n"
        '<div class="photos">\n'
    )
    pictures = thumbnails.of([row["photo"] for row in found.rows])
    for row, picture in zip(found.rows, pictures, strict=True):
        yield _photo(row, picture, folder)
    yield "</div>\n"
    if left := found.photos - len(found.rows):
        yield f"<p>{left:,} more of this class are left out, of which the model is surer.</p>\n"
    yield "</section>\n"


def _photo(row: Row, picture: str, folder: Path | None) -> str:
    best, *others = row["predictions"]
    name, sure = row["photo"], row.get("sure", True)
    percent = f"{100 * best['probability']:.0f} %"
    alt = _text(f"{name}: {best['label']}, {percent}{'' if sure else ', unsure'}")
    image = f'<img src="{picture}" alt="{alt}" width="144" height="144">' if picture else f'<p class="gone">{alt}</p>'
    if link := _link(name, folder):
        image = f'<a href="{_text(link)}">{image}</a>'
    second = f'<span class="second">{_text(others[0]["label"])} {100 * others[0]["probability"]:.0f} %</span>' if others else ""
    mark = "" if sure else ' <span class="unsure">unsure</span>'
    return (
        f'<figure>{image}<figcaption><b>{percent}</b>{mark}{second}<span class="file" title="{_text(name)}">'
        f"{_text(name.rpartition('/')[2])}</span></figcaption></figure>\n"
    )


def _failures(chosen: Chosen) -> str:
    lines = [f'<tr><th scope="row">{_text(row["photo"])}</th><td>{_text(row["message"])}</td></tr>\n' for row in chosen.failures]
    left = chosen.failed - len(chosen.failures)
    more = f"<p>{left:,} more are left out.</p>\n" if left else ""
    return (
        f'<section id="failed" aria-labelledby="hf">\n<h2 id="hf">Failed <small>{chosen.failed:,}</small></h2>\n<table>\n'
        f'<thead><tr><th scope="col">photo</th><th scope="col">why</th></tr></thead>\n<tbody>\n{"".join(lines)}</tbody>\n</table>\n'
        f"{more}</section>\n"
    )


def _link(name: str, folder: Path | None) -> str:
    """From the page to a photo on the same machine; "" to any other."""
    if folder is None or name.startswith(SCHEME):
        return ""
    return quote(os.fsencode(os.path.relpath(Path(name).resolve(), folder)))


def _text(value: Any) -> str:
    return html.escape(shown(str(value)))
