"""Captured photos: the same pixels, the same side up, and nothing else of what their files said."""

import io
import json
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from handler.errors import PhotoError
from handler.preprocess import read_photo
from handler.strip import MAX_PIECES, strip
from tests.conftest import SHARED, bytes_of, needs_photos, picture_bytes
from tests.hostile_files import chunk
from training.data.pictures import draw

SECRET = b"HOME-48.8584N"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6">'
    + SECRET
    + b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def picture(mode="RGB", size=(40, 30)):
    return draw(0, random.Random(0), size).convert(mode)


def exif(orientation=1):
    """Place, camera and owner, a thumbnail's bytes in a maker's note, and the orientation."""
    block = Image.Exif()
    block[0x0112], block[0x010F], block[0x9286] = orientation, SECRET.decode(), SECRET
    block[0x8825] = {1: "N", 2: TiffImagePlugin.IFDRational(1, 3), 27: SECRET}
    block.get_ifd(0x8769)[0x927C] = SECRET
    return block.tobytes()


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg(orientation=1, mode="RGB", **options):
    """A JPEG with all that a camera and an editor write, and a second file behind the picture."""
    plain = bytes_of(picture(mode), "JPEG", exif=exif(orientation), comment=SECRET, icc_profile=b"icc" + SECRET, **options)
    jfif = segment(0xE0, b"JFIF\0\1\2\1\0\1\0\1\1\1" + SECRET[:3]) + segment(0xE0, b"JFXX\0\x13" + SECRET)
    more = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP) + segment(0xED, b"Photoshop 3.0\0" + SECRET)
    more += segment(0xEB, b"JP\0\0" + SECRET) + segment(0xE4, SECRET)
    return plain[:2] + jfif + more + plain[2:] + bytes_of(picture(), "JPEG", exif=exif()) + SECRET


def png(orientation=1, mode="RGB", late=False):
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", SECRET.decode())
    text.add_text("Comment", SECRET.decode() * 9, zip=True)
    text.add_itxt("XML:com.adobe.xmp", XMP.decode().replace('"6"', f'"{orientation}"'))
    plain = bytes_of(
        picture(mode), "PNG", pnginfo=text, icc_profile=b"icc" + SECRET, **({} if late else {"exif": exif(orientation)})
    )
    chunk = b"\0\0\0\x0dprVt" + SECRET + struct.pack(">I", zlib.crc32(b"prVt" + SECRET))
    return plain[:33] + chunk + plain[33:] + SECRET


def webp(orientation=1, mode="RGB", **options):
    plain = bytes_of(picture(mode), "WEBP", exif=b"Exif\0\0" + exif(orientation), xmp=XMP, icc_profile=b"icc" + SECRET, **options)
    return (
        plain[:4] + struct.pack("<I", len(plain) + 22 - 8) + plain[8:] + b"NOTE" + struct.pack("<I", 13) + SECRET + b"\0" + SECRET
    )


def gif(mode="P"):
    plain = bytes_of(picture(mode), "GIF", comment=SECRET, save_all=True, append_images=[picture(mode)], loop=0)
    at = 13 + (3 << ((plain[10] & 7) + 1))
    xmp = b"\x21\xff\x0bXMP DataXMP" + bytes([len(SECRET)]) + SECRET + b"\0"
    return plain[:at] + xmp + plain[at:] + SECRET


def seen(photo):
    return np.asarray(read_photo(photo))


def check(photo):
    stripped = strip(photo)
    for secret in (SECRET, b"Exif\0\0II", b"adobe:ns", b"icc", b"GPS"):
        assert secret not in stripped
    assert np.array_equal(seen(stripped), seen(photo))
    assert strip(stripped) == stripped
    return stripped


@pytest.mark.parametrize("make", [jpeg, png, webp])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photo_stays_turned_and_nothing_else_is_said(make, orientation):
    stripped = check(make(orientation))
    with Image.open(io.BytesIO(stripped)) as image:
        assert dict(image.getexif()) == ({0x0112: orientation} if orientation > 1 else {})
        assert not set(image.info) & {"xmp", "icc_profile", "comment", "Author", "Comment", "photoshop"}


@pytest.mark.parametrize(
    "photo",
    [
        jpeg(mode="L"),
        jpeg(mode="CMYK"),
        jpeg(6, progressive=True),
        jpeg(restart_marker_blocks=1),
        jpeg(3, quality=95, subsampling=0),
        bytes_of(picture(), "MPO", save_all=True, append_images=[picture()]),
        png(mode="P"),
        png(mode="RGBA"),
        png(mode="1"),
        png(8, late=True),
        webp(6, mode="RGBA"),
        webp(lossless=True),
        webp(save_all=True, append_images=[picture().rotate(180)], duration=9),
        bytes_of(picture(), "WEBP"),
        bytes_of(picture("RGBA"), "PNG", save_all=True, append_images=[picture("RGBA")]),
        gif(),
        gif("L"),
        bytes_of(picture(), "GIF", transparency=3),
    ],
    ids=range(18),
)
def test_pixels_of_every_kind_are_the_same(photo):
    check(photo)


def test_colours_that_a_profile_overruled_go_with_it():
    linear, profile = chunk(b"gAMA", struct.pack(">I", 100_000)), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for photo, kept in ((bytes_of(picture(), "PNG", icc_profile=profile), False), (bytes_of(picture(), "PNG"), True)):
        stripped = check(photo[:33] + linear + photo[33:])
        assert (b"gAMA" in stripped) == kept


@pytest.mark.parametrize("image_format", ["BMP", "TIFF", "JPEG2000", "AVIF"])
def test_format_that_cannot_be_stripped_is_refused(image_format):
    with pytest.raises(ValueError, match="cannot be stripped"):
        strip(bytes_of(picture(), image_format))


def test_gif_that_only_its_xmp_turns_is_refused():
    photo = gif()
    at = 13 + (3 << ((photo[10] & 7) + 1))
    turned = photo[:at] + b"\x21\xff\x0bXMP DataXMP" + bytes([len(XMP)]) + XMP + b"\0" + photo[at:]
    with Image.open(io.BytesIO(turned)) as image:
        reads_it = image.getexif().get(0x0112) == 6
    if reads_it:
        with pytest.raises(ValueError, match="cannot be stripped"):
            strip(turned)
    else:
        check(turned)


def test_file_of_endless_pieces_is_refused():
    photo = jpeg()
    with pytest.raises(ValueError, match="pieces"):
        strip(photo[:2] + segment(0xFE, b"") * (MAX_PIECES + 1) + photo[2:])


@pytest.mark.parametrize("make", [jpeg, png, webp, gif])
def test_file_that_is_cut_anywhere_raises_nothing_but_value_errors(make):
    photo = make()
    for end in range(12, len(photo), 7):
        try:
            assert SECRET not in strip(photo[:end])
        except ValueError:
            continue


@needs_photos
def test_photos_of_the_field_keep_their_pixels(monkeypatch):
    # as numbers: the profile goes by which they would be read in other colours
    monkeypatch.setattr("handler.preprocess.profile_of", lambda image: None)
    folder, kept = SHARED / "data" / "hard_images", 0
    assert json.loads((folder / "list.json").read_text())
    for path in sorted(path for path in folder.iterdir() if path.suffix != ".json"):
        photo = path.read_bytes()
        try:
            before = seen(photo)
            stripped = strip(photo)
        except (PhotoError, ValueError):
            continue
        assert np.array_equal(seen(stripped), before), path.name
        kept += 1
    assert kept > 20


def test_jpeg_without_its_end_marker_stays_readable():
    whole = picture_bytes()
    stripped = strip(whole[:-2])
    assert read_photo(stripped).tobytes() == read_photo(whole).tobytes()
