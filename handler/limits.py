"""How photos' files begin, and the limits on what they hold, each checked before memory or time is spent on a claim of a few bytes.

A leaf: whoever only needs a limit imports neither Pillow nor NumPy.
"""

import re

# how the bytes of each format begin; nothing else is handed to Pillow, and only to that format's reader
IMAGE_FORMATS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    # two letters alone begin many a text, too: the size of the header follows in four bytes
    "BMP": rb"BM.{12}[\x0c-\x7c]\0\0\0",
    "TIFF": rb"II[*+]\0|MM\0\*",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "AVIF": rb"....ftypavi[fs]|....ftypm[is]f1.{0,64}avi[fs]",
    # as iPhones write it; the brand that counts may stand behind that of a camera's maker
    "HEIF": rb"....ftyp(hei[cxms]|hev[cxms]|m[is]f[12])|....ftyp.{8}(....){0,8}?(hei[cxms]|hev[cxms]|m[is]f1)",
}
FORMAT_NAMES = ", ".join(IMAGE_FORMATS)

# a phone's best JPEG has 15 MB; config.properties lets through just this much as base64
MAX_BYTES = 20 * 1024 * 1024
# Pillow warns of a decompression bomb from here on; a phone's 50 megapixels are well below
MAX_PIXELS = 89_478_485
# only a JPEG is decoded at the crop's scale; of the others all pixels are held, several times over. By `make photo-costs` one at
# its limit takes 384 MB and 0.75 s of CPU at most: a WebP of 38 bytes and 88 megapixels took 1.35 GB and 2 s
MAX_PIXELS_OF = {
    "PNG": 51_000_000,
    "GIF": 36_000_000,
    "BMP": 36_000_000,
    "TIFF": 36_000_000,
    "WEBP": 20_000_000,
    "AVIF": 20_000_000,
    # the photos of most phones have 12 or 24 megapixels
    "HEIF": 25_000_000,
    "JPEG2000": 10_000_000,
}
# one pixel a side shows nothing
MIN_SIDE = 2
# the resized long side is this many times the crop at most, which bounds the memory that a 1 x 60000 strip takes
MAX_ASPECT_RATIO = 20
# only the first is decoded, but the reader notes each. GIF and TIFF do not state a count, and Pillow seeks none but their first
MAX_FRAMES = 1000
# of a JPEG: one pass over all pixels each, and a thousand empty ones fit into 16 kB; cameras write 1 or 10
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS
# pieces that Pillow reads one by one in Python, some microseconds each: a photo has hundreds, a PNG of 20 MB in blocks of 4 kB has
# 20,000; 20 MB of empty chunks are ten seconds of nothing else
MAX_READS = 100_000
# numbers in one tag of a TIFF, and tags: a strip for each row is the usual maximum, and Pillow keeps 200 bytes for each
MAX_TIFF_VALUES = 65_536
MAX_TIFF_TAGS = 4096
# libtiff takes memory for a whole tile, whatever the photo's size; 256 x 256 is usual
MAX_TIFF_TILE_PIXELS = 16_777_216
# of a HEIF, as libheif has it: tiles, thumbnails, depth maps; a phone's photo of 48 megapixels has some 200
MAX_HEIF_ITEMS = 1000
# EXIF, XMP and profiles are copied once for each picture that they belong to, as the file is opened: a phone's have some 100 kB
MAX_HEIF_COPIED = 8 * 1024 * 1024
# rows times columns of a big photo that are turned to RGB at a time
STRIP_PIXELS = 1_000_000


def format_of(photo_bytes: bytes) -> str | None:
    """The format in whose way these bytes begin, one of IMAGE_FORMATS; None: no photo, or of a format that is not read."""
    start = photo_bytes[:128]
    return next((name for name, magic in IMAGE_FORMATS.items() if re.match(magic, start, re.DOTALL)), None)


def factor_for(side: int, needed: int) -> int:
    """The factor by which a photo is made smaller where only `needed` pixels of its short side are needed; 0: all are."""
    # powers of two, as JPEG's decoder has them: sizes of cameras and screens divide by them
    return next((factor for factor in (8, 4, 2) if needed and side >= factor * needed), 1)
