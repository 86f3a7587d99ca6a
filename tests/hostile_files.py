"""Files as hostile and unlucky clients send them. MADE: by name, what makes each, its HTTP status, and a part of the reason."""

import base64
import gzip
import struct
import zlib

from PIL import Image

from handler.jpeg2000 import COD, EOC, SIZ, SOC, SOD, SOT
from tests.conftest import bytes_of, picture_bytes


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes(height * (1 + 3 * width))) if width < 100 else b""
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, int, int]], following: int = 0) -> bytes:
    """A grey TIFF with these tags, (type, count, value) by number, then zeros; `following`: the next directory's place."""
    every = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 200), 279: (4, 1, 9)}
    entries = [struct.pack("<HHII", tag, *values) for tag, values in sorted((every | tags).items())]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", following) + bytes(300)


def jpeg2000(side: int, tile: int, channels: int = 3, block: int = 4, precinct: bytes = b"") -> bytes:
    """A JPEG 2000 without data; `block`: exponent of a block's side, less two; `precinct`: a byte for each resolution."""
    sizes = struct.pack(">HHIIIIIIIIH", 38 + 3 * channels, 0, side, side, 0, 0, tile, tile, 0, 0, channels)
    coding = struct.pack(">BBHBBBBBB", bool(precinct), 0, 1, 0, 0, block, block, 0, 1) + precinct
    siz = struct.pack(">H", SIZ) + sizes + b"\x07\x01\x01" * channels
    cod = struct.pack(">HH", COD, len(coding) + 2) + coding
    qcd = b"\xff\x5c" + struct.pack(">HBB", 4, 64, 64)
    tile_part = struct.pack(">HHHIBBH", SOT, 10, 0, 0, 0, 1, SOD) + bytes(50)
    return struct.pack(">H", SOC) + siz + cod + qcd + tile_part + struct.pack(">H", EOC)


def webp(width: int, height: int) -> bytes:
    canvas = b"\x10\0\0\0" + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"VP8L" + bytes(24)


def webp_lossless(width: int, height: int) -> bytes:
    """A WebP of one colour: 38 bytes, whatever its size."""
    small = bytes_of(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    bits = int.from_bytes(small[21:25], "little") & ~(2**28 - 1) | (height - 1) << 14 | width - 1
    return small[:21] + struct.pack("<I", bits) + small[25:]


def jpeg_of(width: int, height: int) -> bytes:
    small = bytes_of(Image.new("RGB", (64, 48)), "JPEG")
    frame = small.index(b"\xff\xc0") + 5
    return small[:frame] + struct.pack(">HH", height, width) + small[frame + 4 :]


def jpeg_frame(marker: bytes, at: int = 0, value: int = 0) -> bytes:
    """A JPEG whose start of frame has another marker, and where `at` is set another value at that place behind it."""
    small = bytearray(bytes_of(Image.new("RGB", (64, 48)), "JPEG"))
    frame = small.index(b"\xff\xc0")
    small[frame : frame + 2] = marker
    if at:
        small[frame + at] = value
    return bytes(small)


def scans(side: int, count: int) -> bytes:
    photo_bytes = bytes_of(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = photo_bytes.rindex(b"\xff\xda")
    return photo_bytes[:last] + photo_bytes[last:-2] * count + photo_bytes[-2:]


def animation(image_format: str, count: int) -> bytes:
    options = {"lossless": True} if image_format == "WEBP" else {}
    frames = [Image.new("RGB", (16, 16), (i % 256, i // 256 * 20, 90)) for i in range(count)]
    return bytes_of(frames[0], image_format, save_all=True, append_images=frames[1:], **options)


def packed(text: bytes, size: int) -> bytes:
    return text + zlib.compress(bytes(size))


MADE = {
    # headers of a few bytes that claim gigapixels
    "3.6 gigapixels of PNG": (lambda: png(60000, 60000), 413, "too many pixels"),
    "4.3 gigapixels of GIF": (lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;", 413, "too many pixels"),
    "3.6 gigapixels of BMP": (
        lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6),
        *(413, "too many pixels"),
    ),
    "3.6 gigapixels of TIFF": (lambda: tiff({256: (4, 1, 60000), 257: (4, 1, 60000)}), 413, "too many pixels"),
    "0.3 gigapixels of WebP": (lambda: webp(16383, 16383), 413, "too many pixels"),
    "3.6 gigapixels of JPEG 2000": (lambda: jpeg2000(60000, 60000), 413, "too many for a JPEG2000"),
    "4.3 gigapixels of JPEG": (lambda: jpeg_of(65500, 65500), 413, "too many pixels"),
    "3.6 gigapixels of AVIF": (
        lambda: bytes_of(Image.new("RGB", (64, 64)), "AVIF").replace(struct.pack(">II", 64, 64), struct.pack(">II", 60000, 60000)),
        *(422, "AVIF header cannot be read"),
    ),
    # within the limit on pixels of all formats, but no other than JPEG is decoded at the crop's scale
    "88 megapixels of lossless WebP": (lambda: webp_lossless(9400, 9400), 413, "9400 x 9400 pixels: too many for a WEBP"),
    "88 megapixels of WebP": (lambda: webp(9400, 9400), 413, "9400 x 9400 pixels: too many for a WEBP"),
    "88 megapixels of PNG": (lambda: png(9400, 9400), 413, "9400 x 9400 pixels: too many for a PNG"),
    "no pixels of JPEG": (lambda: jpeg_of(0, 0), 422, "JPEG header cannot be read"),
    "no pixels of PNG": (lambda: png(0, 0), 422, "PNG header cannot be read"),
    # the others would cost Pillow, or the library under it, memory and time
    "zTXt": (lambda: png(9, 9, chunk(b"zTXt", packed(b"a\0\0", 20_000_000))), 413, "unpacks to over 1,048,576 bytes"),
    "iTXt": (lambda: png(9, 9, chunk(b"iTXt", packed(b"a\0\1\0\0\0", 20_000_000))), 413, "unpacks to over 1,048,576 bytes"),
    "iCCP": (lambda: png(9, 9, chunk(b"iCCP", packed(b"a\0\0", 20_000_000))), 413, "unpacks to over 1,048,576 bytes"),
    "100 zTXt": (lambda: png(9, 9, chunk(b"zTXt", packed(b"a\0\0", 1_000_000)) * 100), 413, "67,108,864 together"),
    "PNG chunks": (lambda: png(9, 9, chunk(b"tEXt", b"") * 200_000), 413, "pieces, the limit is 100,000"),
    "JPEG segments": (lambda: b"\xff\xd8\xff" + b"\xfe\0\2\xff" * 200_000, 413, "pieces, the limit is 100,000"),
    "JPEG junk": (lambda: b"\xff\xd8\xff\xe0\0\2" + bytes(900_000), 413, "pieces, the limit is 100,000"),
    "GIF comments": (lambda: b"GIF89a\x09\0\x09\0\0\0\0" + b"!\xfe\1a\0" * 200_000, 413, "pieces, the limit is 100,000"),
    "JPEG 2000 boxes": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * 300_000, 413, "pieces, the limit is 100,000"),
    "JPEG scans": (lambda: scans(500, 1000), 413, "over 100 scans"),
    "scans of a big JPEG": (lambda: scans(7000, 50), 413, "over 36 scans of 49,000,000 pixels"),
    "JPEG 2000 tiles": (lambda: jpeg2000(3000, 36), 413, "7,056 tiles, the limit is 4,096"),
    "JPEG 2000 channels": (lambda: jpeg2000(400, 400, channels=16000), 413, "16000 channels"),
    "JPEG 2000 blocks": (lambda: jpeg2000(3000, 3000, block=0), 413, "1,687,500 blocks, the limit is 500,000"),
    "JPEG 2000 precincts": (lambda: jpeg2000(2000, 2000, precinct=b"\0"), 413, "12,000,000 blocks"),
    "BigTIFF tags": (lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 40) + bytes(900), 413, "tags, the limit is 4,096"),
    "TIFF strips": (lambda: tiff({273: (4, 4_000_000, 200)}), 413, "tag 273 has 4,000,000 values, the limit is 65,536"),
    "TIFF tiles": (
        lambda: tiff({322: (4, 1, 1 << 15), 323: (4, 1, 1 << 15), 324: (4, 1, 200), 325: (4, 1, 9)}),
        *(413, "tiles of 32768 x 32768"),
    ),
    "2000 frames of PNG": (lambda: animation("PNG", 2000), 413, "2,000 frames, the limit is 1,000"),
    "2000 frames of WebP": (lambda: animation("WEBP", 2000), 413, "over 1,000 frames"),
    # of many frames, the first is the photo; broken metadata does not harm the pixels
    "2000 frames of GIF": (lambda: animation("GIF", 2000), 200, ""),
    "300 frames of PNG": (lambda: animation("PNG", 300), 200, ""),
    "directories in a circle": (
        lambda: tiff({259: (3, 1, 1), 273: (4, 1, 100), 279: (4, 1, 4096)}, following=8) + bytes(4096),
        *(200, ""),
    ),
    "EXIF of garbage": (lambda: picture_bytes(exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\xff" * 9000), 200, ""),
    "EXIF that points to itself": (
        lambda: picture_bytes(exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0" + bytes(9)),
        *(200, ""),
    ),
    "floating-point pixels": (lambda: bytes_of(Image.new("F", (40, 40), 0.5), "TIFF"), 415, "32-bit floating-point numbers"),
    "a strip": (lambda: bytes_of(Image.new("RGB", (1, 900)), "PNG"), 422, "1 x 900 pixels"),
    # not photos
    "text": (lambda: b"a photo of ramen", 415, "not an image"),
    "text that begins as a BMP": (lambda: b"BMW is a carmaker, and this is not a photo", 415, "not an image"),
    "HTML": (lambda: b"<!doctype html><title>404</title>", 415, "unsupported format: SVG or HTML"),
    "SVG": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', 415, "unsupported format: SVG or HTML"),
    "PDF": (lambda: b"%PDF-1.7\n", 415, "unsupported format: PDF"),
    "ZIP": (lambda: b"PK\3\4" + bytes(30), 415, "unsupported format: ZIP"),
    "MP4": (lambda: b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", 415, "unsupported format: video"),
    "HEIC of nothing": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", 422, "HEIF header cannot be read"),
    "HEIC of a kind": (lambda: b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", 422, "HEIF header cannot be read"),
    "MPEG": (lambda: b"\0\0\x01\xba" + bytes(40), 415, "unsupported format: video"),
    "JPEG XL": (lambda: b"\xff\x0a" + bytes(40), 415, "unsupported format: JPEG XL"),
    "JPEG XL in a box": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), 415, "unsupported format: JPEG XL"),
    "CR3": (lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", 415, "unsupported format: a camera's raw file"),
    "RAF": (lambda: b"FUJIFILMCCD-RAW 0201FF", 415, "unsupported format: a camera's raw file"),
    "ORF": (lambda: b"IIRO\x08\0\0\0" + bytes(40), 415, "unsupported format: a camera's raw file"),
    "CR2": (lambda: b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + tiff({})[8:], 415, "unsupported format: a camera's raw file"),
    "BigTIFF of the other order": (lambda: b"MM\0+" + bytes(100), 415, "unsupported format: a big-endian BigTIFF"),
    "PSD": (lambda: b"8BPS\0\1" + bytes(40), 415, "unsupported format: Photoshop"),
    "ICO": (lambda: bytes_of(Image.new("RGB", (32, 32)), "ICO"), 415, "unsupported format: icon"),
    "PPM": (lambda: bytes_of(Image.new("RGB", (32, 32)), "PPM"), 415, "unsupported format: portable pixmap"),
    "gzip": (lambda: gzip.compress(picture_bytes()), 415, "unsupported format: an archive"),
    "JSON": (lambda: b'{"image": "..."}', 415, "unsupported format: JSON"),
    "an address": (lambda: b"https://example.com/ramen.jpg", 415, "unsupported format: an address"),
    "base64": (lambda: base64.b64encode(picture_bytes()), 415, "unsupported format: a photo as base64 text"),
    "data URL": (lambda: b"data:image/png;base64,iVBORw0KGgo=", 415, "unsupported format: a photo as base64 text"),
    "Git LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 415, "stands for another"),
    "PNG for iPhones": (lambda: png(9, 9)[:8] + chunk(b"CgBI", b"P\0 \2") + png(9, 9)[8:-30], 415, "a PNG for iPhones"),
    "BMP with a JPEG": (
        lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 94, 0, 0, 54, 40, 40, 40, 1, 0, 4, 40, *[0] * 4) + bytes(40),
        *(415, "a BMP that holds a JPEG or PNG"),
    ),
    # known formats, in kinds that no library here reads
    "12 bits of JPEG": (lambda: jpeg_frame(b"\xff\xc1", 4, 12), 415, "a JPEG of 12 bits a channel"),
    "2 channels of JPEG": (lambda: jpeg_frame(b"\xff\xc0", 9, 2), 415, "a JPEG of 2 channels"),
    "hierarchical JPEG": (lambda: jpeg_frame(b"\xff\xc5"), 415, "a hierarchical JPEG"),
    "JPEG-LS": (lambda: jpeg_frame(b"\xff\xf7"), 415, "a JPEG-LS"),
    "JPEG 2000 in a TIFF": (lambda: tiff({259: (3, 1, 34712)}), 415, "a TIFF in JPEG 2000"),
    "WebP in a TIFF": (lambda: tiff({259: (3, 1, 50001)}), 415, "a TIFF in WebP"),
    "JPEG XL in a TIFF": (lambda: tiff({259: (3, 1, 50002)}), 415, "a TIFF in JPEG XL"),
    "an unknown compression": (lambda: tiff({259: (3, 1, 65000)}), 415, "a TIFF of compression 65000"),
    "DNG": (lambda: tiff({258: (3, 1, 16), 259: (3, 1, 1), 262: (3, 1, 32803)}), 415, "a camera's raw file"),
    "24 bits a channel": (lambda: tiff({258: (3, 1, 24)}), 415, "a TIFF of 1 channels of 24 bits"),
    "half floats": (lambda: tiff({258: (3, 1, 16), 339: (3, 1, 3)}), 415, "a TIFF of 16-bit floating-point numbers"),
    "zeros": (lambda: bytes(5000), 415, "not an image"),
}  # fmt: skip
