"""Fixtures shared by all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# `support` is imported by tests of several folders.
sys.path.insert(0, str(Path(__file__).parent))

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real cells beside the checkout; the test is skipped where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real cells of ../shared/data, which are not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_genes() -> Path:
    """Folder of published gene tables beside the checkout."""
    if not (SHARED / "genes").is_dir():
        pytest.skip("needs the gene tables of ../shared/genes, which are not here")
    return SHARED / "genes"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint directory of a random model of 200 genes, 32 wide, context 48."""
    from support.tiny import save_model

    return save_model(tmp_path_factory.mktemp("models") / "tiny")
