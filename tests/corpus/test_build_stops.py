"""Builds that are stopped go on to the same bytes; what is bad is refused by name."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from support.command import Cli, refused
from support.sources import Made, made, some_sources

from cellscribe.config import BuildOptions, SplitOptions
from cellscribe.corpus.build import scatter, spill, write_shards
from cellscribe.corpus.build.build import build_corpus
from cellscribe.corpus.store import open_corpus
from cellscribe.errors import InputError
from cellscribe.writing import OutputError

OPTIONS = BuildOptions(context=48, shard_cells=64)
SPLIT = SplitOptions(holdout=0.1)


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [source.path for source in some_sources(tmp_path_factory.mktemp("sources"))]


@pytest.fixture(scope="module")
def whole(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    build_corpus(sources, out, OPTIONS, SPLIT, log=quiet)
    return contents(out)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several runs and blocks, though the files are small."""
    monkeypatch.setattr(scatter, "SPILL_CELLS", 40)
    monkeypatch.setattr(scatter, "BLOCK", 16)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Stop(Exception):
    """What no one catches."""


def stopping(after: int, error: type[BaseException]) -> Callable[[str, int, int], None]:
    """Progress that raises at its so many-th call."""
    calls = iter(range(after))

    def progress(done: int, total: int, what: str | None = None) -> None:
        if next(calls, None) is None:
            raise error

    return progress


@pytest.mark.parametrize(
    ("after", "error"),
    [
        (7, Stop),
        pytest.param(16, Stop, marks=pytest.mark.slow),
        (24, KeyboardInterrupt),
        pytest.param(27, Stop, marks=pytest.mark.slow),
        (30, KeyboardInterrupt),
    ],
)
def test_a_stopped_build_goes_on_to_the_same_bytes(
    after: int,
    error: type[BaseException],
    sources: list[Path],
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    with pytest.raises(error):
        build_corpus(sources, out, OPTIONS, SPLIT, progress=stopping(after, error), log=quiet)
    with pytest.raises(InputError, match=r"not finished; run .* again, and it goes on"):
        open_corpus(out)
    build_corpus(sources, out, OPTIONS, SPLIT, log=quiet)
    assert contents(out) == whole


def test_what_was_read_is_not_read_again(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stop):
        build_corpus(sources, out, OPTIONS, SPLIT, progress=stopping(18, Stop), log=quiet)
    found = spill.finished_spills(out / ".build/runs")
    assert len(found) > 1
    seen = []
    read = scatter._source_blocks
    monkeypatch.setattr(
        scatter,
        "_source_blocks",
        lambda plan, place, first, log: (seen.append(first), read(plan, place, first, log))[1],
    )
    build_corpus(sources, out, OPTIONS, SPLIT, log=quiet)
    assert seen[0] == found[-1].stop > 0


SLOW = """
import sys, time
from cellscribe.corpus.build import write_shards, scatter
scatter.SPILL_CELLS, scatter.BLOCK = 40, 16
for module, name in ((scatter, "write_spill"), (write_shards, "_write_counts")):
    def slowly(*words, do=getattr(module, name)):
        time.sleep(0.15)
        return do(*words)
    setattr(module, name, slowly)
from cellscribe.cli import main
main(sys.argv[1:])
"""


def start(sources: list[Path], out: Path) -> Any:
    words = ["corpus", "build", *map(str, sources), "-o", str(out), "--context", "48"]
    words += ["--shard-cells", "64", "--holdout", "0.1"]
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("sign", "stage"),
    [
        (signal.SIGKILL, "runs/*.arrow"),
        pytest.param(signal.SIGKILL, "shards/*.json", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "runs/*.arrow", marks=pytest.mark.slow),
        (signal.SIGTERM, "shards/*.json"),
    ],
)
def test_signals(
    sign: signal.Signals,
    stage: str,
    sources: list[Path],
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    process = start(sources, out)
    end = time.monotonic() + 120
    while not any((out / ".build").glob(stage)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(sign)
    said, complained = process.communicate(timeout=60)
    status = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[sign]
    assert (process.returncode, said) == (status, "")
    assert "Traceback" not in complained
    assert not (out / "manifest.json").exists()
    if sign != signal.SIGKILL:
        assert not [p for p in out.rglob(".*.partial-*") if p.exists()]
    build_corpus(sources, out, OPTIONS, SPLIT, log=quiet)
    assert contents(out) == whole


def test_two_processes_do_not_build_the_same(sources: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(sources, out)
    try:
        while not any((out / ".build").glob("runs/*.arrow")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        with pytest.raises(
            InputError, match=f"is being written by another process .*pid {process.pid}"
        ):
            build_corpus(sources, out, OPTIONS, SPLIT, log=quiet)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("where", ["runs", "tokens", "counts"])
def test_a_full_disk_is_told_and_gone_on_from(
    where: str,
    sources: list[Path],
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, name = {
        "runs": (scatter, "write_spill"),
        "tokens": (write_shards, "_write_tokens"),
        "counts": (write_shards, "_write_counts"),
    }[where]
    work, calls = getattr(module, name), iter(range(2))

    def filling(*words: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return work(*words)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, filling)
        with pytest.raises(OutputError, match=r"the disk is full; free some space"):
            build_corpus(sources, out, OPTIONS, SPLIT, log=quiet)
    build_corpus(sources, out, OPTIONS, SPLIT, log=quiet)
    assert contents(out) == whole


def test_other_work_is_not_mixed_in(sources: list[Path], tmp_path: Path, run: Cli) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stop):
        build_corpus(sources, out, OPTIONS, SPLIT, progress=stopping(18, Stop), log=quiet)
    with pytest.raises(InputError, match="unfinished corpus of other sources or options"):
        build_corpus(sources[1:], out, OPTIONS, SPLIT, log=quiet)
    build_corpus(sources, out, OPTIONS, SPLIT, log=quiet)
    before = contents(out)
    line = refused(run("corpus", "build", *sources, "-o", out, "--context", "40"))
    assert "holds a corpus of other sources or options; remove it or name a new folder" in line
    assert contents(out) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert "is not empty" in refused(run("corpus", "build", *sources, "-o", tmp_path / "full"))
    assert "is a file" in refused(run("corpus", "build", *sources, "-o", sources[0]))
    assert "no such folder" in refused(run("corpus", "build", *sources, "-o", tmp_path / "a/b"))


def normalised(source: Made, *, first: int) -> Made:
    """The same file with logarithms in place of counts from a row on."""
    adata = ad.read_h5ad(source.path)
    x = adata.X.toarray()
    x[first:] = np.log1p(x[first:])
    adata.X = x
    adata.write_h5ad(source.path)
    return source


@pytest.mark.parametrize("first", [0, 70])
def test_a_normalised_source_is_refused_by_name_and_can_be_left_out(
    first: int, sources: list[Path], whole: dict[str, bytes], tmp_path: Path, run: Cli
) -> None:
    labels = {"dataset_id": "A", "assay": "10x", "tissue_general": "blood"}
    bad = normalised(made(tmp_path, "bad", 90, seed=20, **labels), first=first)
    mixed = [*sources[:3], bad.path, *sources[3:]]
    words = ["--context", 48, "--shard-cells", 64, "--holdout", 0.1]
    line = refused(run("corpus", "build", *mixed, "-o", tmp_path / "out", *words))
    assert "bad.h5ad" in line
    # the first block looked at may still hold whole numbers, and so few others
    what = "normalised values" if first == 0 else "fractional counts"
    assert what in line
    assert "--counts" not in line
    assert "--skip-bad" in line
    (tmp_path / "skipped").mkdir()
    out = tmp_path / "skipped"
    ran = run("corpus", "build", *mixed, "-o", out, *words, "--skip-bad")
    assert ran.status == 0, ran
    assert "Left out: " in ran.err
    told = open_corpus(out, deep=True).manifest
    assert [entry["name"] for entry in told["refused"]] == ["bad.h5ad"]
    assert what in told["refused"][0]["reason"]
    assert "--counts" not in told["refused"][0]["reason"]
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    there = contents(out)
    for name in whole:
        assert there[name] == whole[name] or name == "manifest.json", name


def test_a_truncated_source_is_refused(sources: list[Path], tmp_path: Path, run: Cli) -> None:
    cut = tmp_path / "cut.h5ad"
    content = sources[0].read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    line = refused(run("corpus", "build", *sources, cut, "-o", tmp_path / "out"))
    assert "cut.h5ad" in line
    assert not (tmp_path / "out").exists()


def test_bad_words_are_refused(sources: list[Path], tmp_path: Path, run: Cli) -> None:
    out = ("-o", tmp_path / "out")
    assert "no such file" in refused(run("corpus", "build", tmp_path / "none.h5ad", *out))
    (tmp_path / "empty").mkdir()
    assert "no cells in it" in refused(run("corpus", "build", tmp_path / "empty", *out))
    assert "given twice" in refused(run("corpus", "build", sources[0], sources[0], *out))
    assert "a URL; download it first" in refused(run("corpus", "build", "s3://b/a.h5ad", *out))
    assert "no file has such a name" in refused(run("corpus", "build", f"{tmp_path}/*.x", *out))
    (tmp_path / "list.csv").write_text(f"path,name\n{sources[0]},x\n{sources[1]},x\n")
    assert "two sources have the name x" in refused(
        run("corpus", "build", tmp_path / "list.csv", *out)
    )
    assert "NAME=VALUE" in refused(run("corpus", "build", *sources, *out, "--exclude", "disease"))
    assert "no label 'colour'" in refused(
        run("corpus", "build", *sources, *out, "--obs", "colour=c")
    )
    assert "must be positive" in refused(run("corpus", "build", *sources, *out, "--genes", 0))
    assert "not a share" in refused(run("corpus", "build", *sources, *out, "--holdout", 2))
    assert "--covered tissue_general: no such label is tracked" in refused(
        run("corpus", "build", *sources, *out, "--labels", "assay")
    )
    assert "seed" in refused(run("corpus", "build", *sources, *out, "--seed", -1))
    assert not (tmp_path / "out").exists()
    line = refused(run("corpus", "build", *sources, *out, "--min-genes", 1_000))
    assert "no training cell is left after the QC flags; lower --min-genes" in line
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_only_dataset_trains_alone_if_asked(
    sources: list[Path], tmp_path: Path, run: Cli
) -> None:
    out = ("-o", tmp_path / "out")
    line = refused(run("corpus", "build", sources[0], *out))
    assert "the only dataset" in line
    ran = run("corpus", "build", sources[0], *out, "--holdout", 0)
    assert ran.status == 0
    assert "train: 90 cells" in ran.err
    assert ran.out == f"{tmp_path / 'out'}\n"
