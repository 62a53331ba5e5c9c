"""Runs stopped from outside, by signals and by a full disk, go on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import without_notes
from support.runs import BLOCK, Run, same_bytes, state_of

from cellscribe.errors import InputError

FORMS = (".npy", ".h5ad")
pytestmark = pytest.mark.usefixtures("small_blocks")


# In a process of its own, where signals are real. The loop is slowed so that they hit its middle.
SLOW = """
import sys, time
from cellscribe.cells import pipeline
from cellscribe.inference import embedder, outputs, resume as partial
for module in (pipeline, outputs):
    module.BLOCK = {block}
append = partial.Partial.append
def slowly(self, *block):
    time.sleep(0.05)
    append(self, *block)
partial.Partial.append = slowly
from cellscribe.cli import main
main(sys.argv[1:])
"""


def start(source: Path, out: Path, model: Path) -> Any:
    words = ["embed", source, "-o", out, "--model", model, "--precision", "float32"]
    return subprocess.Popen(
        [sys.executable, "-c", SLOW.format(block=BLOCK), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_a_block(process: Any, out: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        try:
            if state_of(out)["done"]:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.005)
    raise AssertionError("no block was ever done")


@pytest.mark.parametrize("suffix", FORMS)
def test_killed_at_no_chosen_moment(
    suffix: str, hundred_cells: Path, tiny_model: Path, run: Run, tmp_path: Path
) -> None:
    out, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    process = start(hundred_cells, out, tiny_model)
    wait_for_a_block(process, out)
    time.sleep(np.random.default_rng().uniform(0, 0.25))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert state_of(out)["done"] >= BLOCK
    run(out, resume=True)
    run(whole)
    same_bytes(out, whole)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_signals(
    number: int, status: int, hundred_cells: Path, tiny_model: Path, run: Run, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out.npy", tmp_path / "whole.npy"
    process = start(hundred_cells, out, tiny_model)
    wait_for_a_block(process, out)
    process.send_signal(number)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == status, told
    assert printed == ""
    assert not out.exists()
    done = state_of(out)["done"]
    if number == signal.SIGINT:
        assert without_notes(told) == (
            f"cellscribe: interrupted with {done} of 100 cells done; "
            "the same command with --resume goes on from there\n"
        )
    else:
        assert without_notes(told) == ""
    run(out, resume=True)
    run(whole)
    same_bytes(out, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs leave to mount a small disk: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def filled(disk: Path, free: int) -> Path:
    """Fill a disk but for so many kB; gives the file that does it."""
    ballast = disk / "ballast"
    with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, max(0, ballast.stat().st_size - (free << 10)))
    return ballast


@pytest.mark.parametrize("suffix", [".npy", ".h5ad", ".zarr", ".parquet"])
@pytest.mark.parametrize("free", [2, 16, 40])
def test_a_full_disk_loses_nothing(
    suffix: str, free: int, small_disk: Path, run: Run, tmp_path: Path
) -> None:
    out, whole = small_disk / f"out{suffix}", tmp_path / f"whole{suffix}"
    run(whole)
    ballast = filled(small_disk, free)
    try:
        run(out)
    except InputError as error:
        message = str(error)
        assert "the disk is full" in message
        assert "free some space" in message
        assert not out.exists()
        left = {p.name for p in small_disk.iterdir()}
        assert left <= {"ballast", f"out{suffix}.partial"}
        ballast.unlink()
        run(out, resume=True)
    else:
        assert free >= 40
    same_bytes(out, whole)


def test_a_full_disk_on_the_command_line(
    hundred_cells: Path,
    tiny_model: Path,
    small_disk: Path,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from cellscribe.cli import main

    out, whole = small_disk / "out.npy", tmp_path / "whole.npy"
    ballast = filled(small_disk, 24)
    words = ["embed", hundred_cells, "-o", out, "--model", tiny_model, "--precision", "float32"]
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            main([*map(str, words)])
        printed = capsys.readouterr()
        assert (left.value.code, printed.out) == (2, "")
        assert without_notes(printed.err) == (
            f"cellscribe: {out}.partial cannot be written: the disk is full; "
            "free some space and go on with the same command and --resume\n"
        )
        assert state_of(out)["done"] > 0
        ballast.unlink()
        with pytest.raises(SystemExit) as left:
            main([*map(str, words), "--resume"])
        assert left.value.code in (0, None)
    finally:
        signal.signal(signal.SIGTERM, before)
    run(whole)
    same_bytes(out, whole)
