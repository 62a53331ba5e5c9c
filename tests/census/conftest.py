"""Fixtures of the Census tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np

    from cellscribe.config import CensusOptions


@pytest.fixture(scope="session")
def soma_census(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Census-shaped store of human and mouse cells, see `support.soma_store`."""
    from support import soma_store

    organisms = {"homo_sapiens": soma_store.HUMAN, "mus_musculus": soma_store.MOUSE}
    return soma_store.write_census(tmp_path_factory.mktemp("soma") / "census", organisms)


@pytest.fixture
def ask(soma_census: Path) -> Callable[..., CensusOptions]:
    """Options for that store, changed as told."""
    from cellscribe.config import CensusOptions

    return lambda **changes: CensusOptions(**{"uri": str(soma_census), **changes})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "download"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a dataset, and no waiting."""
    from cellscribe.census import dataset_file, soma

    monkeypatch.setattr(dataset_file, "BLOCK", 32)
    monkeypatch.setattr(soma, "FIRST_WAIT", 0.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The ids of every block that is read from X."""
    from cellscribe.census import soma_cells

    seen: list[np.ndarray] = []
    read = soma_cells.read_block

    def noted(matrix: Any, ids: np.ndarray) -> Any:
        seen.append(ids)
        return read(matrix, ids)

    monkeypatch.setattr(soma_cells, "read_block", noted)
    return seen
