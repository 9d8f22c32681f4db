"""What the documents say can be done: commands, links, and nothing that exists on one machine only."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("cluster/**/*.md"), *ROOT.glob("examples/**/*.md")]
)

# Written in pieces, or this file would break its own rule.
ELSEWHERE = ("/work/" + "main", "../" + "shared", "/" + "root/", "/" + "home/")
REGISTRIES = ("pypi." + "org", "pythonhosted." + "org", "deb.debian." + "org", "crates." + "io", "npmjs." + "org")


def tracked() -> list[Path]:
    """Text files that git knows, or would know after `git add`."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def test_every_make_command_in_the_documents_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (str(path.relative_to(ROOT)), target)
        for path in DOCUMENTS
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.MULTILINE)
    }
    assert not {(path, target) for path, target in named if target not in targets}


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets
    assert not [target for target in targets[1].split() if f"make {target} " not in listed]


def test_every_relative_link_leads_to_a_file() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in DOCUMENTS
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
        if "://" not in link and not (path.parent / link).exists()
    ]
    assert not broken


def test_every_document_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    documents = [path.relative_to(ROOT / "docs") for path in DOCUMENTS if path.is_relative_to(ROOT / "docs")]
    assert not [str(path) for path in documents if str(path) != "README.md" and f"({path})" not in index]


@pytest.mark.parametrize("word", [*ELSEWHERE, *REGISTRIES])
def test_no_file_names_a_place_that_others_do_not_have(word: str) -> None:
    assert not [str(path.relative_to(ROOT)) for path in tracked() if word in path.read_text(errors="replace")]
