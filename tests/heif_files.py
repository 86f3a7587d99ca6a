"""HEIF files as phones write them, and as no encoder does: pictures that pillow-heif codes, in boxes put together here."""

import io
import random
import struct
from dataclasses import dataclass, field

import pillow_heif
from PIL import Image

from handler.boxes import boxes
from handler.heif import ALPHA
from training.data.pictures import draw


@dataclass
class Item:
    """An item of a file: its type, its content, the boxes of its properties and, by kind, the items that it refers to."""

    kind: bytes
    content: bytes
    properties: list[bytes] = field(default_factory=list)
    references: dict[bytes, list[int]] = field(default_factory=dict)
    hidden: bool = False
    protected: int = 0
    extents: int = 1


def box(kind: bytes, *content: bytes) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def full(kind: bytes, *content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def ispe(width: int, height: int) -> bytes:
    return full(b"ispe", struct.pack(">II", width, height))


def irot(quarters: int) -> bytes:
    return box(b"irot", bytes((quarters,)))


def imir(axis: int) -> bytes:
    return box(b"imir", bytes((axis,)))


def clap(width: int, height: int) -> bytes:
    return box(b"clap", struct.pack(">8I", width, 1, height, 1, 0, 1, 0, 1))


def nclx(primaries: int, transfer: int = 13) -> bytes:
    return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, 6, 128))


def icc(profile: bytes) -> bytes:
    return box(b"colr", b"prof", profile)


def written(image: Image.Image, **options) -> bytes:
    """A picture as pillow-heif writes it."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **({"quality": 90, "enc_params": {"preset": "ultrafast"}} | options))
    return buffer.getvalue()


def coded(image: Image.Image, **options) -> Item:
    """A picture as an item: its codestream, and the properties that tell how it is coded and what size it has."""
    whole = written(image, **options)
    meta = next(start for kind, start, _ in boxes(whole) if kind == b"meta")
    content = next(whole[start:end] for kind, start, end in boxes(whole) if kind == b"mdat")
    found: dict[bytes, bytes] = {}
    end = next(end for kind, _, end in boxes(whole) if kind == b"meta")
    inner = {kind: (start, last) for kind, start, last in boxes(whole, meta + 4, end)}
    for kind, start, last in boxes(whole, *inner[b"iprp"]):
        if kind == b"ipco":
            for name, first, after in boxes(whole, start, last):
                found.setdefault(name, box(name, whole[first:after]))
    return Item(b"hvc1", content, [found[b"hvcC"], found[b"ispe"]])


def grid(image: Image.Image, tile: int, **options) -> list[Item]:
    """A picture of square tiles, as iPhones write one: the grid is item 1, its tiles follow."""
    across, down = -(-image.width // tile), -(-image.height // tile)
    padded = Image.new(image.mode, (across * tile, down * tile))
    padded.paste(image)
    places = [(x * tile, y * tile, (x + 1) * tile, (y + 1) * tile) for y in range(down) for x in range(across)]
    tiles = [coded(padded.crop(place), **options) for place in places]
    return [grid_of(image.size, across, down, list(range(2, 2 + len(tiles)))), *tiles]


def grid_of(size: tuple[int, int], across: int, down: int, tiles: list[int]) -> Item:
    content = struct.pack(">BBBBII", 0, 1, down - 1 & 255, across - 1 & 255, *size)
    return Item(b"grid", content, [ispe(*size)], {b"dimg": tiles})


def alpha_of(picture: int, mask: Image.Image) -> Item:
    """How transparent item `picture` is."""
    item = coded(mask.convert("L"))
    item.properties.append(full(b"auxC", ALPHA[0] + b"\0"))
    item.references[b"auxl"] = [picture]
    return item


def exif(content: bytes, picture: int = 1) -> Item:
    return Item(b"Exif", struct.pack(">I", 6) + b"Exif\0\0" + content, references={b"cdsc": [picture]})


def heif(items: list[Item], primary: int = 1, brand: bytes = b"heic", extra: bytes = b"") -> bytes:
    """A file of these items, numbered from 1."""
    brands = box(b"ftyp", brand, b"\0\0\0\0", b"mif1", *([b"heic"] if brand != b"mif1" else []))
    properties, associations = [], []
    for number, item in enumerate(items, start=1):
        indices = []
        for one in item.properties:
            if one not in properties:
                properties.append(one)
            essential = 0x8000 if one[4:8] in (b"hvcC", b"irot", b"imir", b"clap") else 0
            indices.append(struct.pack(">H", essential | properties.index(one) + 1))
        if indices:
            associations.append(struct.pack(">HB", number, len(indices)) + b"".join(indices))
    infos = [
        full(b"infe", struct.pack(">HH4sB", number, item.protected, item.kind, 0), version=2, flags=int(item.hidden))
        for number, item in enumerate(items, start=1)
    ]
    references = [
        box(kind, struct.pack(f">HH{len(to)}H", number, len(to), *to))
        for number, item in enumerate(items, start=1)
        for kind, to in item.references.items()
    ]

    def meta(start: int) -> bytes:
        places, at = [], start
        for number, item in enumerate(items, start=1):
            places.append(struct.pack(">HHH", number, 0, item.extents) + struct.pack(">II", at, len(item.content)) * item.extents)
            at += len(item.content)
        return full(
            b"meta",
            full(b"hdlr", struct.pack(">I4s13x", 0, b"pict")),
            full(b"pitm", struct.pack(">H", primary)),
            full(b"iloc", struct.pack(">BBH", 0x44, 0, len(items)), *places),
            full(b"iinf", struct.pack(">H", len(items)), *infos),
            *([full(b"iref", *references)] if references else []),
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", struct.pack(">I", len(associations)), *associations, flags=1)),
        )

    start = len(brands) + len(meta(0)) + len(extra) + 8
    return brands + meta(start) + extra + box(b"mdat", *(item.content for item in items))


def seeds(size: tuple[int, int]) -> list[bytes]:
    """A small picture in the structures that files have: one, tiles that are turned, transparency, notes and a thumbnail."""
    image = draw(0, random.Random(0), size)
    one = coded(image)
    one.properties.append(nclx(12))
    tiles = grid(image, 32)
    tiles[0].properties.append(irot(2))
    thumbnail = coded(image.resize((16, 16)))
    thumbnail.references[b"thmb"] = [1]
    return [
        heif([one]),
        heif(tiles),
        heif([coded(image), alpha_of(1, image.convert("L")), exif(b"II*\0\x08\0\0\0\0\0"), thumbnail]),
    ]
