"""The page of a check: one file of HTML with its pictures in it, without a script; nothing is fetched."""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from PIL import Image

from handler.preprocess import PhotoError, read_photo
from scripts.atomic import write_text
from scripts.page_style import style_of
from training.check.findings import Problem
from training.check.labels import Judged, most_suspicious
from training.data.split import Photo

SIDE, QUALITY = 176, 75  # of a picture on the page: pixels, and JPEG's quality
SHOWN = {"wrong": 120, "other": 40}  # so many of a kind are shown; the lists have all
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Page:
    """What the page shows: see Checked in check.py."""

    title: str
    labels: tuple[str, ...]
    photos: Sequence[Photo]
    judged: Judged
    problems: Sequence[Problem]
    remarks: Sequence[str]


def write_page(page: Page, path: Path) -> None:
    """Write the page, whole or not at all. OSError."""
    write_text(path, "".join(_parts(page)))


def _parts(page: Page) -> Iterator[str]:
    title = f"{escape(page.title)}: what may be wrong"
    yield (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{style_of(STYLE)}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<p>{len(page.photos):,} photos of {len(page.labels):,} classes. "
        "All rows: <code>labels.csv</code>, <code>problems.csv</code>. Nothing was changed.</p>\n"
    )
    if page.remarks:
        yield f"<ul>{''.join(f'<li>{escape(remark)}</li>' for remark in page.remarks)}</ul>\n"
    yield from _wrong_labels(page)
    for kind, found in groupby(sorted(page.problems, key=lambda problem: problem.kind), key=lambda problem: problem.kind):
        yield from _problems(kind, list(found))
    yield f"{_classes(page)}</body>\n</html>\n"


def _wrong_labels(page: Page) -> Iterator[str]:
    wrong = [i for i in most_suspicious(page.judged) if page.judged.likely_wrong[i]]
    yield _heading("Likely wrong label", len(wrong), SHOWN["wrong"])
    yield '<div class="photos">\n'
    chosen = wrong[: SHOWN["wrong"]]
    for i, picture in zip(chosen, _pictures([page.photos[i].path for i in chosen]), strict=True):
        given, suggested = page.labels[page.photos[i].index], page.labels[int(page.judged.suggested[i])]
        words = f'<span class="given">{escape(given)}</span> <span class="suggested">{escape(suggested)}</span>'
        yield _figure(page.photos[i].path, picture, words)
    yield "</div>\n"


def _problems(kind: str, found: list[Problem]) -> Iterator[str]:
    yield _heading(kind[0].upper() + kind[1:], len(found), SHOWN["other"])
    chosen = found[: SHOWN["other"]]
    if any(problem.path is None or kind == "unreadable" for problem in chosen):
        rows = (f"<li>{escape(str(p.path or p.label))}: {escape(p.detail)}</li>" for p in chosen)
        yield f"<ul>{''.join(rows)}</ul>\n"
        return
    pictures = _pictures([path for problem in chosen for path in (problem.path, problem.other) if path])
    yield f'<div class="{"pairs" if chosen[0].other else "photos"}">\n'
    for problem in chosen:
        assert problem.path is not None
        words = f"<b>{escape(problem.label)}</b> {escape(problem.detail)}"
        figure = _figure(problem.path, next(pictures), words)
        if problem.other:
            other = _figure(problem.other, next(pictures), f"<b>{escape(problem.other_label)}</b>")
            figure = f'<div class="pair">{figure}{other}</div>\n'
        yield figure
    yield "</div>\n"


def _heading(text: str, count: int, most: int) -> str:
    left = f", {count - most:,} more in the list" if count > most else ""
    return f"<h2>{escape(text)} <small>{count:,}{left}</small></h2>\n"


def _figure(path: Path, picture: str, words: str) -> str:
    name = escape(path.name)
    image = f'<img src="{picture}" alt="{name}" loading="lazy">' if picture else ""
    return f'<figure>{image}<figcaption>{words}<span class="file" title="{escape(str(path))}">{name}</span></figcaption></figure>\n'


def _pictures(paths: Sequence[Path]) -> Iterator[str]:
    """data: addresses of photos, in their order; "" for one that cannot be read any more."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(_picture, paths)


def _picture(path: Path) -> str:
    try:
        image = read_photo(path.read_bytes())
    except (PhotoError, OSError):
        return ""
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _classes(page: Page) -> str:
    sizes = Counter(photo.index for photo in page.photos)
    wrong = Counter(page.photos[i].index for i in page.judged.likely_wrong.nonzero()[:, 0].tolist())
    rows = (
        f"<tr><td>{escape(page.labels[index])}</td><td>{count:,}</td><td>{wrong[index]:,}</td></tr>"
        for index, count in sizes.most_common()
    )
    head = "<tr><th>class</th><th>photos</th><th>likely wrong</th></tr>"
    return f"<h2>Classes <small>{len(page.labels):,}</small></h2>\n<table>{head}{''.join(rows)}</table>\n"
