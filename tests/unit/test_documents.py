"""What the documents name is there: links, commands; and no file names a machine of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from k2.cli import app
from k2.commands.bench import bench

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

# What must be nowhere: paths and hosts of the machine that something was written on.
ELSEWHERE = [
    re.compile(r"(?<![\w.$}~-])/(?:work|root|home/\w+)/"),
    re.compile(r"pypi\.org|pythonhosted\.org|repo1?\.maven\.|maven\.org|ghcr\.io|docker\.\w+\.com"),
    re.compile(r"\b(?:TO" r"DO|FIX" r"ME)\b"),
]


def _named(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def _code(document: Path) -> str:
    return "\n".join(block or inline for block, inline in CODE.findall(document.read_text()))


def _anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(text)
    }


def _tracked() -> list[Path]:
    """The files of the repository, those that are about to be added as well."""
    git = shutil.which("git")
    if git is None or not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    paths = (PROJECT / name for name in names.split("\0") if name)
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        linked = (document.parent / name).resolve() if name else document
        assert linked.exists(), f"{target} is not there"
        if anchor:
            assert anchor in _anchors(linked), f"{target} has no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert "demo" in targets
    assert set(re.findall(r"\bmake ([a-z-]+)", _code(document))) <= targets


def test_make_bench_runs_every_benchmark() -> None:
    run = re.findall(r"/k2 bench ([a-z]+)", (PROJECT / "Makefile").read_text())
    assert sorted(run) == sorted(typer.main.get_command(bench).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_k2_commands_exist(document: Path) -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert "offload" in commands
    used = re.findall(r"(?:^|[\s/])(?<!atabase )k2 ([a-z]+)", _code(document), re.MULTILINE)
    assert set(used) <= commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_files_of_the_project_that_are_named_exist(document: Path) -> None:
    roots = r"(?:include|dags|dbt_project|tests|plugins|docs)/[\w./-]+\.(?:py|sql|ya?ml|csv|md)"
    for name in re.findall(rf"(?<![\w/.]){roots}", document.read_text()):
        assert "acme" in name or (PROJECT / name).exists(), f"{name} is not there"


def test_tests_that_show_a_guarantee_exist() -> None:
    text = (PROJECT / "docs" / "exactly-once.md").read_text()
    shown = re.findall(r"`([\w/]+\.py)` `(test_\w+)`", text)
    assert shown
    for file, name in shown:
        below = "tests" if file.startswith(("crash/", "e2e/")) else "tests/integration"
        source = (PROJECT / below / file).read_text()
        assert f"def {name}(" in source, f"{file} has no {name}"


def test_every_decision_is_in_the_index() -> None:
    directory = PROJECT / "docs" / "adr"
    index = (directory / "README.md").read_text()
    for decision in sorted(directory.glob("[0-9]*.md")):
        text = decision.read_text()
        assert f"({decision.name})" in index
        assert text.startswith(f"# {int(decision.name[:4])}. ")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
        ]


def test_no_file_names_a_machine_or_leaves_work_for_later() -> None:
    found = []
    for path in _tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for pattern in ELSEWHERE:
            found += [f"{_named(path)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []
