"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from support.command import Cli, Ran

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: each worker has one core, and two threads on it wait for each other.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

# No test asks a provider's metadata server for credentials, where one answers.
for variable in ("AWS_METADATA_ENDPOINT", "GCE_METADATA_IP", "AZURE_MSI_ENDPOINT"):
    os.environ[variable] = "http://127.0.0.1:1"

# No test measures time: not even hypothesis, which gives an example 200 ms by default.
hypothesis.settings.register_profile("cellscribe", deadline=None)
hypothesis.settings.load_profile("cellscribe")

DEAREST = "training/test_distributed.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the dearest tests first: at the end one worker would run them and the others wait."""
    items.sort(key=lambda item: not item.path.match(DEAREST))


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real cells next to the checkout; the test is skipped where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real cells of ../shared/data, which are not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_genes() -> Path:
    """Folder of published gene tables next to the checkout; skipped where it is missing."""
    if not (SHARED / "genes").is_dir():
        pytest.skip("needs the gene tables of ../shared/genes, which are not here")
    return SHARED / "genes"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint directory of a random model of 200 genes, 32 wide, context 48."""
    from support.tiny import save_model

    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Products in one thread: where they are small, a second thread costs more than it does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes few cells many blocks."""
    from support.runs import BLOCK

    from cellscribe.cells import pipeline
    from cellscribe.inference import outputs

    for module in (pipeline, outputs):
        monkeypatch.setattr(module, "BLOCK", BLOCK)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls the command line in this process."""
    from support.command import call

    return lambda *words: call(*words, capsys=capsys)


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls ``python -m benchmarks`` in this process."""
    from support.command import call_benchmarks

    return lambda *words: call_benchmarks(*words, capsys=capsys)


@pytest.fixture
def embed(run: Cli, tiny_model: Path, tmp_path: Path) -> Cli:
    """``cellscribe embed``, with the tiny model and into ``out.npy`` unless named otherwise."""

    def call(source: Any, *words: Any, out: Any = tmp_path / "out.npy") -> Ran:
        model = () if "--model" in words else ("--model", tiny_model)
        return run("embed", source, "-o", out, *model, *words)

    return call


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """An h5ad of forty cells that the tiny model can read."""
    from support.command import COUNTS, write

    return write(tmp_path / "cells.h5ad", COUNTS)
