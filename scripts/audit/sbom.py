"""All that this Python environment consists of, as a CycloneDX SBOM: `python -m scripts.audit.sbom --out build/sbom/sbom.cdx.json`.

Python packages; the C libraries and the Java that wheels bring along; what lies in jars, shaded artifacts included; on Debian the
system's packages. Each component names in its properties what tells that it is there. What an SBOM of Python packages alone
leaves out is most of what reads bytes of strangers: netty, libjpeg, libwebp.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scripts.atomic import write_json
from scripts.audit.jars import artifacts
from scripts.audit.libraries import java_runtimes, libraries
from scripts.command import parser, run
from scripts.phrases import counted

Component = dict[str, Any]


def component(purl: str, name: str, version: str, evidence: str, **parts: Any) -> Component:
    """One entry of the SBOM. CycloneDX 1.5; a version that cannot be told is left out, as its schema wants it."""
    told = {} if version == "unknown" else {"version": version}
    reference = purl if told else f"{purl}?found={quote(evidence)}"
    found = {"properties": [{"name": "evidence", "value": evidence}, *parts.pop("properties", [])]}
    return {"type": "library", "bom-ref": reference, "name": name, **told, "purl": purl, **parts, **found}


def of_package(package: Distribution) -> list[Component]:
    """An installed package, and what it brings along."""
    name, version = package.name, package.version
    licence = package.metadata.json.get("license_expression")
    licences = {"licenses": [{"expression": licence}]} if licence else {}
    index_name = name.lower().replace("_", "-").replace(".", "-")
    found = [component(f"pkg:pypi/{index_name}@{quote(version)}", name, version, "its dist-info", **licences)]
    for library in libraries(package) + java_runtimes(package):
        told = f"@{library.version}" if library.version != "unknown" else ""
        properties = [{"name": "soname version", "value": library.so_version}] if library.so_version else []
        evidence = f"{name} {version}: {library.evidence}"
        found.append(component(f"pkg:generic/{library.name}{told}", library.name, library.version, evidence, properties=properties))
    for file in package.files or ():
        if file.suffix == ".jar":
            for group, artifact, version_there, evidence in artifacts(Path(str(file.locate()))):
                told = f"@{quote(version_there)}" if version_there != "unknown" else ""
                purl = f"pkg:maven/{group}/{artifact}{told}"
                found.append(component(purl, artifact, version_there, f"{name} {version}: {evidence}", group=group))
    return found


def of_debian() -> list[Component]:
    """The system's packages; none where it is not Debian."""
    if shutil.which("dpkg-query") is None:
        return []
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = []
    for line in listed.splitlines():
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
        found.append(component(purl, name, version, "dpkg-query"))
    return found


def sbom(packages: Iterable[Distribution], system: list[Component], base: str = "") -> dict[str, Any]:
    """The SBOM of these packages and the system's; `base` is the image that they were put on, with its digest."""
    found = {one["bom-ref"]: one for package in packages for one in of_package(package)} | {one["bom-ref"]: one for one in system}
    about: Component = {"type": "container" if base else "application", "name": "seefood"}
    if base:
        about["properties"] = [{"name": "base image", "value": base}]
    # no date, no serial number: the same environment gives the same bytes
    components = [found[reference] for reference in sorted(found)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": about},
        "components": components,
    }


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, help="default: standard output")
    arguments.add_argument("--base", default="", help="the base image with its digest, for an environment in a container")
    args = arguments.parse_args()
    made = sbom(distributions(), of_debian() if args.base else [], args.base)
    if args.out is None:
        print(json.dumps(made, indent=2))
        return 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, made)
    print(f"{args.out}: {counted(len(made['components']), 'component')}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
