"""Nothing that others pickled runs, and what is plain is read as it is."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cellscribe.errors import InputError
from cellscribe.families.unpickle import load_pickle, read_pickle, read_tensors, read_torch


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Builtin:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(value=plain, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    assert load_pickle(data, "a.pkl") == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_values_come_back(protocol: int, tmp_path: Path) -> None:
    value = {"id": np.int16(7), "median": np.float64(2.5), "all": np.arange(3), "set": {1}}
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps(collections.OrderedDict(value), protocol=protocol))
    found = read_pickle(path)
    assert found["id"] == 7 and found["median"] == 2.5 and found["set"] == {1}
    np.testing.assert_array_equal(found["all"], np.arange(3))


@pytest.mark.parametrize(("trap", "wanted"), [(None, "posix.system"), (Builtin(), "builtins.eval")])
def test_a_pickle_that_would_run_something_is_refused(
    trap: Any, wanted: str, tmp_path: Path
) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "genes.pkl"
    path.write_bytes(pickle.dumps({"a": trap or Trap(f"touch {sprung}")}))
    with pytest.raises(InputError, match=f"would import {wanted}; ask its makers") as error:
        read_pickle(path)
    assert "\n" not in str(error.value)
    assert not sprung.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_that_would_run_something_is_refused(zipped: bool, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "model.pt"
    torch.save(
        {"weight": torch.ones(2), "trap": Trap(f"touch {sprung}")},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(InputError, match=r"would import posix\.system") as error:
        read_torch(path)
    assert "\n" not in str(error.value)
    assert not sprung.exists()


def test_a_torch_file_with_numpy_numbers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"epoch": 3, "losses": [np.float64(1.5), np.float32(2), np.int64(4)]}, path)
    assert read_torch(path) == {"epoch": 3, "losses": [1.5, 2.0, 4]}


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_file_that_was_cut_is_told_of(keep: float, tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(1000)}, tmp_path / "model.pt")
    data = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(InputError, match=r"cut short .*; copy or download it again") as error:
        read_torch(tmp_path / "cut.pt")
    assert "\n" not in str(error.value)


def test_other_damage_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": list(range(100))})[:50])
    (tmp_path / "b.pkl").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "c.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    for read, name, line in (
        (read_pickle, "a.pkl", "a damaged pickle"),
        (read_pickle, "b.pkl", "a Git LFS pointer"),
        (read_pickle, "none.pkl", "no such file"),
        (read_tensors, "c.safetensors", "damaged or cut short"),
        (read_tensors, "none.safetensors", "no such file"),
        (read_torch, "none.pt", "no such file"),
    ):
        with pytest.raises(InputError, match=line) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
