"""Which kind of file bytes are that are no photo we can read, though nothing about them is broken: the error names it.

Asked once a photo was refused, and of every TIFF and HEIF, whose readers would show a thumbnail, or fail without a reason.
"""

import re
import struct

from handler.errors import PhotoError
from handler.heif import Pictures
from handler.jpeg import unread_frame
from handler.tiff import Directory

# how files begin that are sent by mistake; the first that fits
NOT_READ = {
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    # Pillow takes one for a TIFF of another layout than the one that libtiff and our limits see
    "a big-endian BigTIFF": rb"MM\0\+",
    "JPEG XR": rb"II\xbc[\0\x01]",
    "a camera's raw file (CR3)": rb"....ftypcrx ",
    "a camera's raw file (RAF)": rb"FUJIFILMCCD-RAW",
    "a camera's raw file (ORF)": rb"II(R[OS])|MMOR",
    "a camera's raw file (RW2)": rb"IIU\0",
    "a camera's raw file (X3F)": rb"FOVb",
    "a camera's raw file (MRW)": rb"\0MRM",
    "a camera's raw file (CRW)": rb"II\x1a\0\0\0HEAPCCDR",
    "video": rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI |\0\0\x01\xba|FLV\x01|OggS",
    "sound": rb"RIFF....WAVE|ID3|fLaC",
    "Photoshop": rb"8BPS",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "icon": rb"\0\0[\x01\x02]\0[\x01-\xff]\0|icns",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?RA",
    "portable pixmap": rb"P[1-7][\s#]",
    "QOI": rb"qoif",
    "MNG": rb"[\x8a\x8b][MJ]NG\r\n\x1a\n",
    "DICOM": rb".{128}DICM",
    "NumPy": rb"\x93NUMPY",
    "a file of Git LFS or DVC that stands for another": rb"version https://git-lfs|outs:\s|- md5:|md5: ",
    "ZIP": rb"PK(\x03\x04|\x05\x06)",
    "an archive": rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|.{257}ustar",
    "SVG or HTML": rb"(\xef\xbb\xbf)?\s*<",
    "JSON": rb"(\xef\xbb\xbf)?\s*[\[{]",
    "an address": rb"https?://",
    "a photo as base64 text": rb"data:image/|/9j/[\w+/]{16}|iVBORw0KGgo|UklGR[\w+/]{12}",
}
# as many bytes as the longest of these looks at
START_BYTES = 262

# TIFF 6.0 and its supplements: tags, and what their values mean that are not read
BITS, COMPRESSION, PHOTOMETRIC, CHANNELS, SAMPLE_FORMAT, DNG_VERSION = 258, 259, 262, 277, 339, 50706
READ_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
COMPRESSIONS = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((34933, 50001), "WebP"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((34661, 34715), "JBIG"),
    **dict.fromkeys((34676, 34677), "SGI LogLuv"),
    34887: "LERC",
    34892: "lossy JPEG of a DNG",
}
RAW_PHOTOMETRICS = (32803, 34892)  # a colour filter array, linear raw: DNG 1.4, chapter 3
SAMPLE_FORMATS = {2: "signed numbers", 3: "floating-point numbers", 5: "complex numbers", 6: "complex numbers"}
CANON_RAW = (b"CR\2\0", 8)  # a CR2 is a TIFF with its name and version here, where others may have pixels
# DNG 1.4, chapter 2, and TIFF/EP: raw files of most makers are TIFFs whose first directory holds a small preview
NEW_SUBFILE, SUB_DIRECTORIES, REDUCED = 254, 330, 1
MOST_DIRECTORIES = 16  # of a file, that are looked at

PNG_OF_IPHONES = (b"CgBI", 12)  # Apple's, not a PNG for others: pixels swapped, stream without its header
BMP_COMPRESSION, BMP_EMBEDDED = 30, (4, 5)  # where it stands in most headers; a JPEG or PNG for printers


def unread_file(photo_bytes: bytes) -> str | None:
    """The kind of file that these bytes begin, of those that are no photo or a photo that is not read; None: some other."""
    start = photo_bytes[:START_BYTES]
    return next((kind for kind, magic in NOT_READ.items() if re.match(magic, start, re.DOTALL)), None)


def unread_variant(name: str, photo_bytes: bytes) -> str | None:
    """The kind of JPEG, PNG, BMP, TIFF or HEIF that a photo of format `name` is and that is not read; None: it should be read."""
    ways = {"JPEG": unread_frame, "PNG": _png, "BMP": _bmp, "TIFF": _tiff, "HEIF": _heif}
    try:
        if name == "TIFF" and (kind := raw_of_camera(photo_bytes)):
            return kind
        return ways[name](photo_bytes) if name in ways else None
    except (struct.error, IndexError, PhotoError):  # cut off: broken, whatever else it is
        return None


def _png(photo_bytes: bytes) -> str | None:
    letters, at = PNG_OF_IPHONES
    return "a PNG for iPhones (CgBI)" if photo_bytes[at : at + len(letters)] == letters else None


def _bmp(photo_bytes: bytes) -> str | None:
    (compression,) = struct.unpack_from("<I", photo_bytes, BMP_COMPRESSION)
    return "a BMP that holds a JPEG or PNG" if compression in BMP_EMBEDDED else None


def _heif(photo_bytes: bytes) -> str | None:
    return Pictures(photo_bytes).unread()


def raw_of_camera(photo_bytes: bytes) -> str | None:
    """The kind of raw file that a TIFF is, which readers of TIFFs would show as its thumbnail; None for a picture.

    struct.error if its first directory is cut off.
    """
    letters, at = CANON_RAW
    if photo_bytes[at : at + len(letters)] == letters:
        return "a camera's raw file (CR2)"
    first = Directory(photo_bytes)
    looked_for = NEW_SUBFILE, PHOTOMETRIC, SUB_DIRECTORIES, DNG_VERSION
    tags = first.find(*looked_for)
    if DNG_VERSION in tags:
        return "a camera's raw file (DNG)"
    if tags.get(PHOTOMETRIC, [0])[0] in RAW_PHOTOMETRICS:
        return "a camera's raw file"
    # a page's smaller versions may stand in directories of their own, but what comes first is the picture
    if not tags.get(NEW_SUBFILE, [0])[0] & REDUCED:
        places = tags.get(SUB_DIRECTORIES, [])
    else:
        places = [*tags.get(SUB_DIRECTORIES, []), *first.following()]
    for place in places[:MOST_DIRECTORIES]:
        try:
            other = Directory(photo_bytes, place).find(PHOTOMETRIC)
        except (struct.error, PhotoError):  # broken, and not what is shown
            continue
        if other.get(PHOTOMETRIC, [0])[0] in RAW_PHOTOMETRICS:
            return "a camera's raw file"
    reduced = tags.get(NEW_SUBFILE, [0])[0] & REDUCED and places
    return "a camera's raw file, or another TIFF whose first picture is a thumbnail" if reduced else None


def _tiff(photo_bytes: bytes) -> str | None:
    directory = Directory(photo_bytes)
    tags = {tag.number: values for tag in directory if (values := directory.values(tag))}
    (compression,) = tags.get(COMPRESSION, [1])[:1]
    if compression not in READ_COMPRESSIONS:
        return f"a TIFF in {COMPRESSIONS[compression]}" if compression in COMPRESSIONS else f"a TIFF of compression {compression}"
    bits, (sample,), (channels,) = tags.get(BITS, [1]), tags.get(SAMPLE_FORMAT, [1])[:1], tags.get(CHANNELS, [1])[:1]
    if sample in SAMPLE_FORMATS:
        return f"a TIFF of {bits[0]}-bit {SAMPLE_FORMATS[sample]}"
    if bits[0] > 16 or len(set(bits)) > 1 or channels > 4:
        return f"a TIFF of {channels} channels of {', '.join(map(str, sorted(set(bits))))} bits"
    return None
