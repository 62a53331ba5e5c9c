"""What a run over many shards shows: counts, rates and times that can be worked out by hand."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from cellscribe.atlas.tally import Reports, Tally
from cellscribe.cli import progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def begun(clock: Clock, shards: int = 10) -> Tally:
    tally = Tally(clock)
    tally.on_start(shards)
    tally.on_claim("a", 1)
    return tally


def test_only_cells_of_this_run_count_for_the_rate() -> None:
    clock = Clock()
    tally = begun(clock)
    assert tally.line() == "0/10 shards · 0 cells"
    tally.on_seen(["x", "y"])  # finished earlier
    clock.now += 10
    tally.on_cells("a", 500, 1000)
    assert (tally.n_done, tally.n_cells) == (2, 500)
    assert tally.cells_per_second == pytest.approx(50)
    # 500 cells of this one, and seven of which nothing is known
    assert tally.seconds_left == pytest.approx((500 + 7 * 1000) / 50)
    assert tally.line() == "2/10 shards · 500 cells · 50 cells/s · 0:02:30 left"


def test_the_time_left_goes_by_cells_where_they_are_known() -> None:
    clock = Clock()
    tally = begun(clock, 3)
    clock.now += 10
    for shard, total in (("a", 1000), ("b", 10_000), ("c", 100)):
        tally.on_cells(shard, 100, total)
    assert tally.seconds_left == pytest.approx((900 + 9900 + 0) / 30)
    tally.on_shard("c", "done")
    tally.on_shard("b", "no cells")
    assert tally.seconds_left == pytest.approx(900 / 30)
    assert tally.fraction == pytest.approx((2 + 0.1) / 3)
    assert tally.line() == "1/3 shards · 300 cells · 30 cells/s · 1 failed · 0:00:30 left"
    tally.on_seen(["b"])  # another run had more luck
    assert tally.failed == {}


def test_workers_of_other_runs_shorten_the_time() -> None:
    clock = Clock()
    tally = begun(clock, 8)
    tally.on_seen(["x"])
    clock.now += 10
    tally.on_cells("a", 100, 100)
    tally.on_shard("a", "done")
    tally.on_seen(["y", "z", "a"])
    # one shard by us and two by others in ten seconds: four are left
    assert tally.seconds_left == pytest.approx(4 / 0.3)
    assert tally.n_cells == 100


def test_the_rate_is_that_of_the_last_minute() -> None:
    clock = Clock()
    tally = begun(clock)
    for second in range(200):
        clock.now += 1
        tally.on_cells("a", 10 * (second + 1) if second < 100 else 1000 + 30 * (second - 99), 9000)
    assert tally.cells_per_second == pytest.approx(30)


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
def test_the_line_fits_any_terminal(width: int) -> None:
    clock = Clock()
    tally = begun(clock, 500)
    for i in range(12):
        tally.on_shard(f"s{i}", "done")
    for i in range(3):
        tally.on_shard(f"f{i}", "bad")
    clock.now += 10
    tally.on_cells("a", 12_340, 100_000)
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True).print(progress._Shards(tally))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert plain.count("\n") == 1
    assert len(plain.rstrip("\n")) <= width
    assert "12/500 shards" in plain
    assert ("3 failed" in plain) == (width >= 30)
    assert ("12,340 cells · 1,234 cells/s" in plain) == (width >= 80)
    assert width < 200 or plain.startswith("━")


def test_a_log_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(), list[str]()
    monkeypatch.setattr("cellscribe.callbacks.time.monotonic", clock)
    with progress.shards_bar(said.append) as tally:
        tally.on_start(2)
        tally.on_claim("a", 1)
        for second in range(1, 101):
            clock.now += 1
            tally.on_cells("a", second, 1000)
        tally.on_shard("a", "done")
        tally.on_shard("b", "bad")
    shown = [line.split(" · ")[:2] for line in said]
    assert [int(cells.split()[0]) for _, cells in shown] == [1, 31, 61, 91, 100]
    assert shown[-1][0] == "1/2 shards"


def test_a_few_cells_do_not_foretell_hours() -> None:
    clock = Clock()
    tally = begun(clock, 500)
    clock.now += 2
    tally.on_cells("a", 1, 5000)
    assert tally.line() == "0/500 shards · 1 cell"
    clock.now += 8
    tally.on_cells("a", 25, 5000)
    assert "25 cells · 2.5 cells/s · " in tally.line()


def test_the_end_is_reported_once() -> None:
    said: list[tuple[int, int, str]] = []
    reports = Reports(lambda done, total, what=None: said.append((done, total, str(what))))
    reports.on_start(2)
    reports.on_shard("a", "done")
    reports.on_shard("b", "done")
    reports.on_seen(["a"])
    reports.on_cells("b", 5, 5)
    assert [done for done, _, _ in said] == [1, 2]
