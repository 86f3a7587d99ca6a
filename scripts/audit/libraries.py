"""The C libraries and the Java that wheels bring along: what no package index lists."""

import re
from importlib.metadata import Distribution
from pathlib import Path
from typing import NamedTuple

from PIL import features

# libjpeg-6dc8d115.so.62.4.0: auditwheel puts a hash or two into each name, and leaves the version that the linker knows
HASH = re.compile(r"[-.][0-9a-f]{8}(?=[-.])")
LIBRARY = re.compile(r"(lib)?(?P<name>[\w+-]+?)\.so(\.(?P<so_version>\d[\d.]*))?")
# Pillow's names of its libraries, and those of the files where there are such; the others are linked into its own modules
OF_PILLOW = {
    "freetype2": "freetype",
    "littlecms2": "lcms2",
    "webp": "webp",
    "avif": "avif",
    "raqm": "raqm",
    "fribidi": "fribidi",
    "harfbuzz": "harfbuzz",
    "libjpeg_turbo": "jpeg",
    "zlib_ng": "zlib-ng",
    "zlib": "zlib",
    "jpg_2000": "openjp2",
    "libtiff": "tiff",
}


class Library(NamedTuple):
    """A library: its version or "unknown"; the version of its interface, which the linker knows; what tells that it is there."""

    name: str
    version: str
    so_version: str
    evidence: str


def libraries(package: Distribution) -> list[Library]:
    """The libraries in an installed package."""
    known = _versions_of_pillow() if package.name.lower() == "pillow" else {}
    found = []
    for file in package.files or ():
        match = LIBRARY.fullmatch(HASH.sub("", file.name))
        # modules of Python have no version, but their platform in their names
        if (
            match
            and "cpython" not in file.name
            and "abi3" not in file.name
            and (match["so_version"] or ".libs/" in file.as_posix())
        ):
            version = known.pop(match["name"], "") or "unknown"
            found.append(Library(match["name"], version, match["so_version"] or "", file.as_posix()))
    found += [Library(name, version, "", "PIL.features") for name, version in known.items()]
    return sorted(found)


def _versions_of_pillow() -> dict[str, str]:
    """Versions by name, as Pillow's modules state them."""
    versions = {name: features.version(feature) for feature, name in OF_PILLOW.items()}
    return {name: version for name, version in versions.items() if version}


def java_runtimes(package: Distribution) -> list[Library]:
    """The Java in an installed package, by the file `release` at its root."""
    found = []
    for file in package.files or ():
        if file.name == "release" and (path := Path(str(file.locate()))).is_file():
            values = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE))
            if "JAVA_VERSION" in values:
                found.append(Library("openjdk", values["JAVA_VERSION"], "", file.as_posix()))
    return found
