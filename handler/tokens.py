"""What somebody wrote beside a photo -> the ids of its tokens, for a Hugging Face encoder: in training as in the worker.

The encoder's own tokenizer.json travels with the model. The library tokenizers reads it, where a text is read at all; torch and
transformers are not needed.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from handler.text import words

TOKENIZER = "tokenizer.json"
KIND = "tokenizer"


@dataclass(frozen=True)
class TokenSpec:
    """How a model with an encoder reads a text: `length` ids, each a token's number + 1, as id 0 is none.

    `tokenizer` is the content of TOKENIZER; "" where no text will be read.
    """

    length: int
    tokenizer: str = field(default="", repr=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tokenizer: str) -> "TokenSpec":
        """TokenSpec of a mapping that holds exactly kind and length. ValueError names what is wrong."""
        if set(values) != {"kind", "length"} or values["kind"] != KIND or type(values["length"]) is not int or values["length"] < 3:
            raise ValueError(f"spec's text is {dict(values)}, expected kind {KIND!r}, and a whole number from 3 as length")
        return cls(values["length"], tokenizer)

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them; without the tokenizer, which is a file of its own."""
        return {"kind": KIND, "length": self.length}

    def ids(self, text: str) -> list[int]:
        """At most `length` ids of a text, with those that the encoder expects at either end; none for one without a word.

        ValueError if the library or the tokenizer is missing.
        """
        # case is left to the tokenizer: of some encoders it matters
        return [1 + token for token in self._read.encode(unicodedata.normalize("NFKC", text)).ids] if words(text) else []

    @property
    def vocabulary(self) -> int:
        """The number of tokens. ValueError as ids."""
        return int(self._read.get_vocab_size())

    @cached_property
    def _read(self) -> Any:
        if not self.tokenizer:
            raise ValueError(f"{TOKENIZER} is missing, by which this model reads texts: export it again, make export")
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise ValueError("this model's texts need a library that is not installed: pip install tokenizers") from error
        try:
            tokenizer = Tokenizer.from_str(self.tokenizer)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{TOKENIZER} holds no tokenizer: {error}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.length)
        return tokenizer


def read_tokenizer(folder: Path) -> str:
    """The content of a model's TOKENIZER; "" if it has none."""
    path = folder / TOKENIZER
    return path.read_text(encoding="utf-8") if path.is_file() else ""
