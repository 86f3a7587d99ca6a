"""What somebody wrote beside a photo -> the ids that the exported program takes, in training and in the worker alike.

Words and their character n-grams, hashed: no vocabulary, no download, any language (arXiv:1607.01759, arXiv:1607.04606). What
was typed is made one spelling here and nowhere else: NFKC, then casefold, so that "RAMEN", "ramen"
and its full-width letters are one word.
Without NumPy, which the door does without.
"""

import base64
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

# a title or a caption; four bytes are UTF-8's most for a character, and as base64 it still fits into a header
MAX_CHARACTERS = 500
MAX_BYTES = 4 * MAX_CHARACTERS
# of a request to a worker: base64 of UTF-8
TEXT_HEADER = "x-text"
READS_NO_TEXT = "this model reads no text: send the photo alone"
# letters, digits, marks (vowels of many scripts) and emoji; all else parts words
OF_WORDS = ("L", "N", "M", "So")


class TextError(ValueError):
    """A text over a limit, or none; the message says which, for the person who sent it. `status` is HTTP's: 400 or 413."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ReadsText(Protocol):
    """How a model was trained to read a text: as n-grams, TextSpec, or as tokens, TokenSpec (tokens.py)."""

    @property
    def length(self) -> int:
        """The number of ids that its program takes."""

    def ids(self, text: str) -> list[int]:
        """The ids of a text, each from 1, at most `length`; none for a text without a word."""

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""


@dataclass(frozen=True)
class TextSpec:
    """How this model was trained to read a text: `length` ids, each from 1 to `buckets` - 1, of words and their n-grams.

    n-grams have `shortest` to `longest` characters, among them a mark at either end of the word. Id 0 is none.
    """

    length: int
    buckets: int
    shortest: int
    longest: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TextSpec":
        """TextSpec of a mapping that holds exactly its keys. ValueError names what is missing or wrong."""
        names = {field.name for field in fields(cls)}
        if set(values) != names or not all(type(value) is int for value in values.values()):
            raise ValueError(f"spec's text is {dict(values)}, expected whole numbers for {sorted(names)}")
        spec = cls(**values)
        if spec.length < 1 or spec.buckets < 2 or not 1 <= spec.shortest <= spec.longest:
            raise ValueError(f"spec's text is {asdict(spec)}, expected length from 1, buckets from 2, 1 <= shortest <= longest")
        return spec

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return asdict(self)

    def ids(self, text: str) -> list[int]:
        """At most `length` ids of a text, each once: those of its words, then those of their n-grams."""
        found = dict.fromkeys(1 + zlib.crc32(piece.encode(errors="replace")) % (self.buckets - 1) for piece in _pieces(text, self))
        return list(found)[: self.length]


def check_text(text: str) -> str:
    """The text, "" for one without a word. TextError if it is too long, or no text that can be written."""
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"the text has {len(text):,} characters, the limit is {MAX_CHARACTERS:,}", 413)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"the text holds half a character, U+{ord(text[error.start]):04X}: expected whole ones") from error
    return text if words(text) else ""


def encode_text(text: str) -> str:
    """A text as TEXT_HEADER holds it."""
    return base64.b64encode(text.encode()).decode("ascii")


def decode_header(value: str) -> str:
    """The text in TEXT_HEADER. TextError if that is not base64, or as decode_text."""
    try:
        content = base64.b64decode(value, validate=True)
    except ValueError as error:
        raise TextError(f"the header {TEXT_HEADER} is not base64: {error}") from error
    return decode_text(content)


def decode_text(content: bytes) -> str:
    """The text in UTF-8, "" for one without a word. TextError if it is too long, or not UTF-8."""
    if len(content) > MAX_BYTES:
        raise TextError(f"the text has {len(content):,} bytes, the limit is {MAX_BYTES:,}", 413)
    try:
        return check_text(content.decode())
    except UnicodeDecodeError as error:
        raise TextError(f"the text is not UTF-8: {error.reason} at byte {error.start}") from error


def words(text: str) -> list[str]:
    """The words of a text in their one spelling."""
    # twice: casefold takes some letters apart (U+0390), and what it makes of others is not in NFKC
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(letter if unicodedata.category(letter).startswith(OF_WORDS) else " " for letter in folded).split()


def text_ids(text: str, spec: ReadsText) -> list[int]:
    """`spec.length` ids of a text, then zeros. All 0: no text."""
    ids = spec.ids(text)
    return ids + [0] * (spec.length - len(ids))


def _pieces(text: str, spec: TextSpec) -> Iterator[str]:
    # words first: what a long text has too much of are n-grams
    marked = [f"<{word}>" for word in words(text)]
    yield from marked
    for word in marked:
        for size in range(spec.shortest, spec.longest + 1):
            yield from (word[start : start + size] for start in range(len(word) - size + 1))
