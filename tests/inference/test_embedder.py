"""Where and how a model computes, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from support.formats import annotated
from support.tiny import real_genes, some_counts

import cellscribe
from cellscribe.errors import InputError
from cellscribe.inference import embedder
from cellscribe.model import device


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "has_bf16_kernel", lambda: False)
    monkeypatch.setattr(device, "has_bf16_kernel", lambda: False)


def test_a_cpu_without_bf16_takes_float32_and_says_so(tiny_model: Path, no_bf16: None) -> None:
    loaded = cellscribe.load(tiny_model, device="cpu")
    assert loaded.precision == "float32"
    assert "no bf16" in loaded.note
    assert "float32 is taken" in loaded.note


def test_bf16_may_be_asked_for_without_the_hardware(tiny_model: Path, no_bf16: None) -> None:
    loaded = cellscribe.load(tiny_model, device="cpu", precision="bf16")
    assert loaded.precision == "bf16"
    assert "emulated" in loaded.note


@pytest.mark.skipif(not embedder.has_bf16_kernel(), reason="needs a CPU with AVX512-BF16")
def test_a_cpu_with_bf16_takes_it_and_says_nothing(tiny_model: Path) -> None:
    loaded = cellscribe.load(tiny_model, device="cpu")
    assert (loaded.precision, loaded.note) == ("bf16", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"device": "cpu", "precision": "fp16"}, "no fast fp16"),
        ({"device": "gpu"}, "choose auto, cpu or cuda"),
        ({"device": "meta"}, "not supported"),
        ({"device": "cpu", "threads": 0}, "threads must be 1 or more"),
    ],
)
def test_wishes_that_cannot_be_met(tiny_model: Path, words: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cellscribe.load(tiny_model, **words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(tiny_model: Path) -> None:
    with pytest.raises(InputError, match='device="cpu"'):
        cellscribe.load(tiny_model, device="cuda")


def test_the_callers_number_of_threads_is_left_as_it_was(tiny_model: Path) -> None:
    before = torch.get_num_threads()
    vectors = cellscribe.load(tiny_model, device="cpu", threads=2).embed(
        annotated(csr_matrix(some_counts(20)), real_genes)
    )
    assert np.isfinite(vectors).all()
    assert torch.get_num_threads() == before
