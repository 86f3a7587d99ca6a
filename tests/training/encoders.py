"""A text encoder as Hugging Face's hub lays one out, tiny and of random weights, and a hub that has it."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.training.texts import WORDS

SENTENCES = [*WORDS, "My the best Sunday !", "Crème brûlée for dinner", "拉麺 with egg", "a bowl of soup"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_tokenizer(path: Path) -> int:
    """tokenizer.json of word pieces, some of a letter alone; how many there are."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        SENTENCES, tokenizers.trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    made.enable_padding(length=16)  # as some on the hub are saved
    made.enable_truncation(8)
    made.save(str(path))
    return int(made.get_vocab_size())


def write_encoder(folder: Path, width: int = 32) -> None:
    """config.json, tokenizer.json and model.safetensors of a BERT of two layers, and files that no tower needs."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    config = transformers.BertConfig(
        vocab_size=write_tokenizer(folder / "tokenizer.json"),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        initializer_range=0.3,  # features of words differ, as a trained encoder's do
    )
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "README.md").write_text("a model card\n")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")


class Hub(BaseHTTPRequestHandler):
    """The paths of the hub's API that a snapshot takes."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        """A model's files, or one of them."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The same without a body."""
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        name = self.path.rpartition("/")[2]
        if self.path == "/api/models/dishes/tiny-bert/revision/main":
            files = [{"rfilename": path.name} for path in sorted(self.folder.iterdir())]
            body = json.dumps({"id": "dishes/tiny-bert", "sha": COMMIT, "siblings": files}).encode()
        elif self.path.startswith(f"/api/models/dishes/tiny-bert/tree/{COMMIT}"):
            sizes = [(path.name, path.stat().st_size) for path in sorted(self.folder.iterdir())]
            body = json.dumps([{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes]).encode()
        elif self.path.startswith("/dishes/tiny-bert/resolve/") and (self.folder / name).is_file():
            self.asked.append(name)
            body = (self.folder / name).read_bytes()
        else:
            body = b""
        self.send_response(200 if body or self.path == "/" else 404)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", f'"{name}"')
        self.send_header("x-repo-commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(its address, the files that were asked of it) of a hub that has `folder` as dishes/tiny-bert."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHub", (Hub,), {"folder": folder, "asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
