"""The text of a list: UTF-8 and UTF-16 are sure, cp1252 (Windows' Western European) is a guess that must look like words.

No library guesses: on lists of short words charset-normalizer 3.5 takes cp1252's "crème brûlée" for "crŤme brŻlťe".
"""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

GUESSED = "cp1252"
# UTF-32's begins with UTF-16's
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BINARY = {
    b"PK\x03\x04": "an Excel workbook or another zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "packed with gzip",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a pointer of Git LFS and not the file (git lfs pull)",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}
# letters of French, German, Spanish, Portuguese, Italian, Dutch and the Nordic languages
LETTERS = "àâäáãåæçèéêëìíîïñòóôõöùúûüÿßøœ"
CAPITALS = LETTERS.replace("ß", "").upper()
LETTER = f"[{LETTERS}{CAPITALS}]"
SYMBOLS = "\u2019\u2018\u201c\u201d\u2013\u2014\u2026\xb4«»°½¼¾®™€£·º"  # quotes, dashes, dots and an accent first
WRONG = "|".join(
    (
        rf"[^\x00-\x7f{LETTERS}{CAPITALS}{SYMBOLS}]",
        rf"{LETTER}{{3}}",
        rf"\b{LETTER}{{2}}\b",  # words without a plain letter: Cyrillic ones are such
        rf"[a-z{LETTERS}][{CAPITALS}]",  # a capital within a word: Mac Roman's é is Ž here
        "[^\\W\\d_][^\\w\\s'\u2019&/().,+-][^\\W\\d_]",  # a symbol within a word
        r"œ(?![uiUI])",
    )
)


@dataclass(frozen=True)
class ListText:
    """A list's text, and whether its encoding is a guess."""

    text: str
    guessed: bool = False


def read_text(path: Path) -> ListText:
    """The text of a list. ValueError if it is another kind of file; what cannot be decoded by a guess is U+FFFD."""
    content = path.read_bytes()
    for start, kind in BINARY.items():
        if content.lstrip()[: len(start)].lower() == start.lower():
            raise ValueError(f"{path} is {kind}, no CSV: save it as CSV (UTF-8) with the columns path,label")
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), _unmarked(content))
    try:
        return ListText(content.decode(encoding))
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{path} begins as {encoding}, but is none ({error.reason}): save it as UTF-8") from error
    return ListText(content.decode(GUESSED, errors="replace"), guessed=True)


def _unmarked(content: bytes) -> str:
    """UTF-16 without its mark has a 0 in every other byte of Western text."""
    even, odd = (content[first:400:2].count(0) for first in (0, 1))
    return "utf-8" if not even + odd else "utf-16-be" if even > odd else "utf-16-le"


def looks_right(text: str) -> bool:
    """Whether text that was decoded by the guess reads like Western European words."""
    return not re.search(WRONG, text)


def encoded_twice(text: str) -> str:
    """What the text was before its UTF-8 was taken for cp1252 ("crÃ¨me" was "crème"); "" if it was not."""
    try:
        return "" if text.isascii() else text.encode(GUESSED).decode()
    except UnicodeError:
        return ""


def encoding_problem(path: Path, line: int) -> str:
    """What is wrong with a list of unknown encoding, and the remedy."""
    return (
        f"{path}, line {line}: the text is not in UTF-8, and its encoding cannot be told: save the list as UTF-8 "
        f"(Excel: CSV UTF-8; or, if it is Windows' Cyrillic: iconv -f CP1251 -t UTF-8 {path.name} > utf8.csv)"
    )
