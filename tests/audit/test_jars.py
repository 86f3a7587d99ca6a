"""What lies in jars: the artifacts of Maven, however deep, and those that TorchServe's jar does not name."""

import importlib.util
import io
import zipfile
from pathlib import Path

import pytest

from scripts.audit.jars import artifacts


def jar(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pom(group, name, version):
    text = f"#Created by Apache Maven\n\nartifactId={name}\ngroupId = {group}\nversion={version}\n"
    return {f"META-INF/maven/{group}/{name}/pom.properties": text}


def found_in(path):
    return {(one.group, one.name, one.version) for one in artifacts(path)}


def test_artifacts_of_a_jar_of_those_shaded_into_it_and_of_jars_in_it_are_found(tmp_path):
    inner = jar(pom("org.inner", "inner", "3.1"))
    middle = jar({**pom("org.middle", "middle", "2.0"), **pom("com.shaded", "shaded", "0.1-jre"), "lib/inner.jar": inner})
    versions = {"META-INF/io.netty.versions.properties": "netty-codec.version=4.1.53.Final\nnetty-codec.shortCommitHash=ab\n"}
    war = {"WEB-INF/classes/META-INF/maven/g/a/pom.properties": "groupId=g\nartifactId=a\nversion=9\n"}
    (tmp_path / "outer.jar").write_bytes(
        jar({**pom("org.outer", "outer", "1"), "BOOT-INF/lib/middle.jar": middle, **versions, **war})
    )
    assert found_in(tmp_path / "outer.jar") == {
        ("org.outer", "outer", "1"),
        ("org.middle", "middle", "2.0"),
        ("com.shaded", "shaded", "0.1-jre"),
        ("org.inner", "inner", "3.1"),
        ("io.netty", "netty-codec", "4.1.53.Final"),
        ("g", "a", "9"),
    }
    nested = next(one for one in artifacts(tmp_path / "outer.jar") if one.name == "inner")
    assert nested.evidence == "outer.jar!/BOOT-INF/lib/middle.jar!/lib/inner.jar!/META-INF/maven/org.inner/inner/pom.properties"


def test_jar_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.jar").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"broken\.jar cannot be read: File is not a zip file"):
        artifacts(tmp_path / "broken.jar")


def test_jar_of_torchserve_is_taken_apart():
    installed = Path(importlib.util.find_spec("ts").origin).parent / "frontend" / "model-server.jar"
    found = found_in(installed)
    assert {
        ("io.netty", "netty-codec-http", "4.1.53.Final"),
        ("org.yaml", "snakeyaml", "2.1"),
        ("org.apache.logging.log4j", "log4j-core", "2.17.1"),
        ("com.google.code.gson", "gson", "2.9.0"),
        ("io.grpc", "grpc-netty-shaded", "1.50.0"),
        ("org.apache.ant", "ant", "1.10.11"),
    } <= found
    with zipfile.ZipFile(installed) as content:
        assert b"1.50.0" in content.read("io/grpc/internal/GrpcUtil.class")  # the declared version is that of the jar
