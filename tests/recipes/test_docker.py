"""The Dockerfile without Docker, and the lock that it installs."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.recipes import RECIPES

ROOT = RECIPES.parent
VARIANTS = ("cpu", "cuda")
LOCKED = re.compile(r"^([a-z0-9.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}\b", re.MULTILINE)


def instructions() -> list[tuple[str, str]]:
    """Word and rest of each instruction, lines joined."""
    text = (RECIPES / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line]  # type: ignore[misc]


def all_of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def locked(variant: str) -> dict[str, str]:
    text = (RECIPES / f"requirements-{variant}.lock").read_text(encoding="utf-8")
    found = dict(LOCKED.findall(text))
    # nothing stands there without a hash
    assert len(found) == len(re.findall(r"^[a-z]", text, re.MULTILINE))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_copied_is_there_and_not_ignored(variant: str) -> None:
    kept = {
        line[1:]
        for line in (RECIPES / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for rest in all_of("COPY"):
        *sources, _ = rest.split()
        for source in sources:
            name = source.replace("${VARIANT}", variant)
            assert (ROOT / name).exists()
            assert any(Path(name).match(pattern) for pattern in kept), name


def test_the_image_is_not_run_by_root_and_is_the_program() -> None:
    words = [word for word, _ in instructions()]
    assert words.index("USER") > max(at for at, word in enumerate(words) if word == "RUN")
    (user,) = all_of("USER")
    assert int(user) >= 1000
    assert f"--uid {user} " in " ".join(all_of("RUN"))
    (entry,) = all_of("ENTRYPOINT")
    assert json.loads(entry) == ["cellscribe"]
    (base,) = all_of("FROM")
    assert re.fullmatch(r"python:3\.11-\S+", base)
    for command in all_of("RUN"):
        subprocess.run(["bash", "-n", "-c", command], check=True)
        for install in re.findall(r"pip install [^&]*", command):
            # nothing that no hash was asked of comes from the network
            assert "--require-hashes" in install or "--no-index" in install


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_lock_is_what_the_project_asks_for(variant: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["remote"],
        *project["build-system"]["requires"],
    ]
    versions = locked(variant)
    for requirement in map(Requirement, asked):
        assert versions[requirement.name] in requirement.specifier, requirement
    assert versions["torch"].endswith("+cpu") == (variant == "cpu")
    assert any(name.startswith("nvidia-") for name in versions) == (variant == "cuda")


def test_both_variants_have_the_same_versions() -> None:
    cpu, cuda = map(locked, VARIANTS)
    assert {n: v for n, v in cpu.items() if n != "torch"}.items() <= cuda.items()
