"""What a jar is made of, as Maven's coordinates: group, artifact, version."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAX_DEPTH = 4  # of jars in jars
MAX_NESTED_BYTES = 512 * 1024**2


class Artifact(NamedTuple):
    """One Maven artifact, and what tells that it is there."""

    group: str
    name: str
    version: str
    evidence: str


# TorchServe 0.12.0 ships one jar into which its build copies the classes of all others, without META-INF/maven. The names and
# versions are those of pytorch/serve, frontend/gradle.properties and build.gradle files at v0.12.0, and of what these depend on
# where the jar has the evidence; what cannot be told has the version "unknown". A package of the jar goes with each.
MODEL_SERVER = "ts/frontend/model-server.jar"
DECLARED = "pytorch/serve v0.12.0, frontend/gradle.properties and build.gradle"
TORCHSERVE_ARTIFACTS = (
    ("io/prometheus/client/", "io.prometheus", "simpleclient", "0.9.0"),
    ("io/prometheus/client/exporter/", "io.prometheus", "simpleclient_servlet", "0.9.0"),
    ("org/yaml/snakeyaml/", "org.yaml", "snakeyaml", "2.1"),
    ("org/apache/commons/cli/", "commons-cli", "commons-cli", "1.3.1"),
    ("org/apache/commons/io/", "commons-io", "commons-io", "2.16.1"),
    ("org/apache/commons/compress/", "org.apache.commons", "commons-compress", "1.25.0"),
    ("org/apache/commons/lang3/", "org.apache.commons", "commons-lang3", "unknown"),
    ("org/apache/commons/codec/", "commons-codec", "commons-codec", "unknown"),
    ("com/lmax/disruptor/", "com.lmax", "disruptor", "3.4.4"),
    ("org/slf4j/", "org.slf4j", "slf4j-api", "1.7.32"),
    ("org/apache/logging/log4j/core/", "org.apache.logging.log4j", "log4j-core", "2.17.1"),
    ("org/apache/logging/log4j/", "org.apache.logging.log4j", "log4j-api", "2.17.1"),
    ("org/apache/logging/slf4j/", "org.apache.logging.log4j", "log4j-slf4j-impl", "2.17.1"),
    ("com/google/gson/", "com.google.code.gson", "gson", "2.9.0"),
    ("org/codehaus/groovy/", "org.codehaus.groovy", "groovy-all", "3.0.9"),
    ("io/grpc/netty/shaded/", "io.grpc", "grpc-netty-shaded", "1.50.0"),
    ("io/grpc/protobuf/", "io.grpc", "grpc-protobuf", "1.50.0"),
    ("io/grpc/stub/", "io.grpc", "grpc-stub", "1.50.0"),
    ("io/grpc/internal/", "io.grpc", "grpc-core", "1.50.0"),
    # shaded into grpc-netty-shaded by its own build
    ("io/grpc/netty/shaded/io/netty/", "io.netty", "netty-codec-http2", "unknown"),
    ("io/perfmark/", "io.perfmark", "perfmark-api", "unknown"),
    ("javax/annotation/", "com.google.code.findbugs", "jsr305", "unknown"),
    ("com/google/protobuf/", "com.google.protobuf", "protobuf-java", "unknown"),
    ("com/google/common/", "com.google.guava", "guava", "unknown"),
    ("com/google/errorprone/", "com.google.errorprone", "error_prone_annotations", "unknown"),
    ("com/google/j2objc/", "com.google.j2objc", "j2objc-annotations", "unknown"),
    ("com/google/api/", "com.google.api.grpc", "proto-google-common-protos", "unknown"),
    ("org/checkerframework/", "org.checkerframework", "checker-qual", "unknown"),
    ("com/github/javaparser/", "com.github.javaparser", "javaparser-core", "unknown"),
    ("com/thoughtworks/qdox/", "com.thoughtworks.qdox", "qdox", "unknown"),
    ("com/beust/jcommander/", "com.beust", "jcommander", "unknown"),
    ("org/apache/tools/ant/", "org.apache.ant", "ant", "unknown"),
    ("org/fusesource/jansi/", "org.fusesource.jansi", "jansi", "unknown"),
    ("jline/", "jline", "jline", "unknown"),
    ("org/hamcrest/", "org.hamcrest", "hamcrest-core", "unknown"),
    ("org/junit/jupiter/", "org.junit.jupiter", "junit-jupiter-engine", "unknown"),
    ("org/junit/platform/", "org.junit.platform", "junit-platform-launcher", "unknown"),
    ("org/junit/rules/", "junit", "junit", "unknown"),
    ("org/testng/", "org.testng", "testng", "unknown"),
    ("groovyjarjarasm/", "org.ow2.asm", "asm", "unknown"),
    ("groovyjarjarantlr4/", "org.antlr", "antlr4", "unknown"),
    ("org/opentest4j/", "org.opentest4j", "opentest4j", "unknown"),
    ("picocli/", "info.picocli", "picocli", "unknown"),
    ("groovyjarjarpicocli/", "info.picocli", "picocli", "unknown"),
)


def artifacts(jar: Path) -> set[Artifact]:
    """All that a jar of an installed package is made of, jars in it included. ValueError if it cannot be read."""
    try:
        with zipfile.ZipFile(jar) as content:
            found = set(_in(content, jar.name, 0))
            if jar.as_posix().endswith(MODEL_SERVER):
                found |= set(_of_torchserve(content))
            return found
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{jar} cannot be read: {error}") from error


def _in(jar: zipfile.ZipFile, where: str, depth: int) -> Iterator[Artifact]:
    for entry in jar.infolist():
        name = entry.filename
        # META-INF/maven/GROUP/ARTIFACT/pom.properties: one for each artifact, those shaded into it among them
        if re.search(r"(^|/)META-INF/maven/[^/]+/[^/]+/pom\.properties$", name):
            values = _properties(jar.read(entry))
            if {"groupId", "artifactId", "version"} <= values.keys():
                yield Artifact(values["groupId"], values["artifactId"], values["version"], f"{where}!/{name}")
        # io.netty.versions.properties: netty-codec.version=4.1.53.Final, for each of its artifacts
        elif match := re.fullmatch(r"META-INF/(?P<group>[\w.]+)\.versions\.properties", name):
            for key, value in _properties(jar.read(entry)).items():
                if key.endswith(".version"):
                    yield Artifact(match["group"], key.removesuffix(".version"), value, f"{where}!/{name}")
        elif name.endswith(".jar") and depth < MAX_DEPTH and entry.file_size <= MAX_NESTED_BYTES:
            with zipfile.ZipFile(io.BytesIO(jar.read(entry))) as nested:
                yield from _in(nested, f"{where}!/{name}", depth + 1)


def _of_torchserve(jar: zipfile.ZipFile) -> Iterator[Artifact]:
    names = jar.namelist()
    versions = dict(_stated_versions(jar))
    for package, group, name, version in TORCHSERVE_ARTIFACTS:
        if any(one.startswith(package) and one.endswith(".class") for one in names):
            stated = versions.get(name)
            yield Artifact(group, name, stated or version, f"{MODEL_SERVER}!/{package}; " + ("the jar" if stated else DECLARED))


def _stated_versions(jar: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """(artifact, version) that files in the jar state themselves."""
    names = set(jar.namelist())
    for artifact, name, key in (("ant", "org/apache/tools/ant/version.txt", "VERSION"),):
        if name in names and (version := _properties(jar.read(name)).get(key)):
            yield artifact, version
    if "META-INF/groovy-release-info.properties" in names:
        yield "groovy-all", _properties(jar.read("META-INF/groovy-release-info.properties"))["ImplementationVersion"]
    for name in names:
        if match := re.match(r"META-INF/resources/webjars/(?P<name>[^/]+)/(?P<version>[^/]+)/", name):
            yield match["name"], match["version"]


def _properties(content: bytes) -> dict[str, str]:
    lines = (line.partition("=") for line in content.decode("utf-8", "replace").splitlines() if not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in lines}
