"""The training report: its figures against the lines of the runs, and its looks in a browser."""

from __future__ import annotations

import itertools
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.browser import Page, complaints, fetched, open_page
from support.command import Cli, nothing_new, refused
from support.training_runs import SESSION, metrics, write_run

from cellscribe.errors import InputError
from cellscribe.report.curves import MOST_POINTS, Level, Line, lines_svg, stretches, subsample
from cellscribe.report.training_page import read_runs, render_page, write_report

HOSTILE = "<script>document.title='owned'<|script><img src=x onerror=alert(1)>\"'& $x$ 日"
DARK = ("--blink-settings=preferredColorScheme=0",)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = metrics(2_000, every=100, memorised=1_200, skipped=(300, 301))
    sessions = [SESSION, SESSION | {"step": 700, "device": "cuda: Some GPU"}]
    return write_run(tmp_path_factory.mktemp("runs") / "one", lines, sessions=sessions)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("three")
    rates = {"a": 1e-3, "b": 5e-4, "c": 2e-3}
    return [
        write_run(
            folder / name / "run",
            metrics(200 - 20 * place, seed=place, every=20, floor=4 - 0.2 * place),
            training={"learning_rate": rate, "schedule_steps": 200},
            finished=False,
        )
        for place, (name, rate) in enumerate(rates.items())
    ]


@pytest.fixture(scope="module")
def text(one: Path) -> str:
    return render_page(read_runs([one]))


@pytest.fixture(scope="module")
def together(three: list[Path]) -> str:
    return render_page(read_runs(three))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    session = SESSION | {"device": HOSTILE, "date": HOSTILE}
    lines = metrics(30, every=10, splits=("val", HOSTILE))
    folder = tmp_path_factory.mktemp("hostile") / HOSTILE
    corpus = {"name": HOSTILE, "hash": HOSTILE}
    return write_run(folder, lines, sessions=[session], corpus=corpus, preset=HOSTILE)


def frame(folder: Path) -> pd.DataFrame:
    return pd.read_json(folder / "metrics.jsonl", lines=True).set_index("step")


def table(page: Page, *header: str) -> list[list[str]]:
    return next(rows[1:] for rows in page.tables if rows[0][: len(header)] == list(header))


def test_tiles_are_sums_over_the_lines(text: str, one: Path) -> None:
    words, lines = Page(text).text, frame(one)
    rates = lines["tokens"] / lines["seconds"].diff().fillna(lines["seconds"])
    for expected in (
        "Parameters 6.03 M 3 layers, 192 wide",
        "Steps 2,000 of 2,000",
        f"Cells seen {lines['cells'].sum():,} 5,000 to train on",
        f"Epochs {lines['cells'].sum() / 5_000:.2f}",
        f"Hours {lines['seconds'].iloc[-1] / 3600:.2f} on cpu: Some CPU, cuda: Some GPU",
        f"Tokens/s {rates.median():,.0f}",
        f"Best val loss {lines['loss_val'].min():.3f} at step {lines['loss_val'].idxmin():,}",
        "mini on corpus atlas (0123456789abcdef)",
        "2 of 2,000 steps were skipped",
        "Overfitting: the loss on val was lowest at step",
        f"Clipped: {(lines['gradient_norm'] > 1).mean():.1%} of the steps",
        f"Highest so far: {lines['learning_rate'].max():.3g}.",
    ):
        assert expected in words


def test_losses_are_those_of_the_lines(text: str, one: Path) -> None:
    page, lines = Page(text), frame(one)
    smoothed = lines["loss"].rolling(21, center=True, min_periods=1).mean()
    assert "mean over the 21 steps" in page.text
    lowest = lines["loss_val"].idxmin()
    for split, step, loss, final, last in table(page, "Split", "Best step"):
        values = smoothed if split == "train" else lines[f"loss_{split}"]
        assert int(step.replace(",", "")) == lowest
        assert float(loss) == pytest.approx(values[lowest], abs=5e-5)
        assert int(final.replace(",", "")) == 2_000
        assert float(last) == pytest.approx(values[2_000], abs=5e-5)
    every = table(page, "Step", "val", "test_unseen")
    assert [float(row[1]) for row in every] == pytest.approx(
        lines["loss_val"].dropna().tolist(), abs=5e-5
    )


def test_published_losses_are_told_apart_from_ours(text: str) -> None:
    page = Page(text)
    rows = table(page, "Model", "What it is")
    assert rows[0] == ["guessing among 25,424 genes", "every gene equally likely", "10.14"]
    assert [(row[1], row[2]) for row in rows[1:]] == [
        ("published, other data, not comparable", loss) for loss in ("3.35", "2.79", "2.50")
    ]
    assert page.text.count("published, other data: ") == 2 * 3


def test_recipes_that_differ_come_first(together: str, text: str) -> None:
    page = Page(together)
    first = table(page, "Setting", "a/run", "b/run", "c/run")
    assert first == [["learning rate", "0.001", "0.0005", "0.002"]]
    same = {row[0] for row in table(page, "Setting", "Value")}
    assert {"weight decay", "hidden size", "corpus hash"} <= same
    alone = {row[0] for row in table(Page(text), "Setting", "Value")}
    assert alone == same | {"learning rate"}


def test_runs_over_one_another(together: str, three: list[Path]) -> None:
    page = Page(together)
    assert "3 training runs" in page.text
    for folder, row in zip(three, table(page, "Run", "Parameters"), strict=True):
        lines = frame(folder)
        assert row[0] == f"{folder.parent.name}/run"
        assert row[2] == str(len(lines))
        assert float(row[7]) == pytest.approx(lines["loss_val"].min(), abs=5e-5)
        assert int(row[8]) == lines["loss_val"].idxmin()
    assert "b/run: Not finished: 180 of 200 steps." in page.text
    lowest = min((frame(folder)["loss_val"].min(), folder.parent.name) for folder in three)
    assert f"Best val loss {lowest[0]:.3f} {lowest[1]}/run" in page.text
    assert "The runs differ" not in page.text
    assert len(table(page, "Run", "Date")) == 3


def test_runs_that_answer_other_questions_are_not_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a", 30), write_run(tmp_path / "b", 30, corpus={"hash": "x"})]
    folders.append(write_run(tmp_path / "c", 30, training={"masked_share": 0.9}))
    words = Page(render_page(read_runs(folders))).text
    assert "The runs differ in corpus, masked share: compare no loss between them." in words
    assert "Best val loss" not in words.split("Loss over steps")[0]


def test_a_run_of_one_step_or_without_any_finite_loss_is_drawn(tmp_path: Path) -> None:
    start = write_run(tmp_path / "a", metrics(1, every=9)[:1], finished=False)
    words = Page(render_page(read_runs([start]))).text
    assert "Training loss" in words
    lines = metrics(12, every=4, skipped=tuple(range(1, 13)))
    for line in lines:
        line |= {name: None for name in line if name.startswith("loss_")}
    words = Page(render_page(read_runs([write_run(tmp_path / "b", lines)]))).text
    assert "Training loss not finite after 12 steps." in words
    assert "No loss on val" in words


def test_page_loads_nothing_and_runs_nothing(text: str, together: str) -> None:
    for page, source in ((Page(text), text), (Page(together), together)):
        for tag, attributes in page.tags:
            for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                value = attributes.get(name) or "#"
                assert value.startswith(("#", "data:")), (tag, name, value)
            assert not [name for name in attributes if name.startswith("on")], tag
        assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", source))
        assert "script" not in {tag for tag, _ in page.tags}
        policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_references_and_headings_are_in_order(text: str, together: str, hostile: Path) -> None:
    for page in (Page(text), Page(together), Page(render_page(read_runs([hostile])))):
        ids = [a["id"] for _, a in page.tags if a.get("id")]
        assert len(ids) == len(set(ids))
        wanted = {a["aria-labelledby"] for _, a in page.tags if a.get("aria-labelledby")}
        for _, attributes in page.tags:
            for name, value in attributes.items():
                if name != "aria-label":
                    wanted |= set(re.findall(r"(?:^#|url\(#)([^)]+)", value or ""))
        assert wanted <= set(ids)
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
        drawn = [a for t, a in page.tags if t == "svg" and a.get("aria-hidden") != "true"]
        assert len(drawn) == 2 + 4
        assert all(a["role"] == "img" and a["aria-label"] for a in drawn)
        assert all(a.get("aria-label") for _, a in page.tags if a.get("role") == "region")


def test_hostile_text_stays_text(hostile: Path, tmp_path: Path) -> None:
    page = Page(render_page(read_runs([hostile])))
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert page.text.count(HOSTILE) >= 8
    write_report([hostile], tmp_path)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def points(svg: str) -> list[np.ndarray]:
    """Points of each curve in the accent colour."""
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    found = []
    for path in root.iter("path"):
        numbers = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.get("d") or "")
        if "stroke: var(--accent)" in (path.get("style") or ""):
            found.append(np.array(numbers, dtype=float))
    return found


def test_a_curve_goes_through_its_points() -> None:
    x = np.arange(1, 51)
    y = np.sin(x / 5) + 2
    svg = lines_svg([Line(name="a", x=x, y=y)], name="x", alt='a "quoted" <alt>', ylabel="y")
    (curve,) = points(svg)
    assert len(curve) == 50
    assert np.corrcoef(curve[:, 0], x)[0, 1] > 1 - 1e-9
    # down is up in SVG
    assert np.corrcoef(curve[:, 1], y)[0, 1] < -1 + 1e-9
    assert "var(--accent)" in svg
    assert "#0102" not in svg
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("aria-label") == 'a "quoted" <alt>'


def test_levels_lie_at_their_heights() -> None:
    x = np.arange(1, 11)
    lines = [Line(name="a", x=x, y=2 + np.linspace(0, 1, 10) ** 2)]
    levels = [Level(y=2.5, text="half"), Level(y=4, text="over")]
    svg = lines_svg(lines, name="x", alt="x", ylabel="y", levels=levels)
    heights = []
    for path in ElementTree.fromstring(svg.replace("xlink:href", "href")).iter("path"):
        if "stroke-dasharray" in (path.get("style") or ""):
            heights.append(float(re.findall(r"M [\d.]+ ([\d.]+)", path.get("d") or "")[0]))
    (curve,) = points(svg)
    low, high = curve[0, 1], curve[-1, 1]
    assert (np.array(heights) - low) / (high - low) == pytest.approx([0.5, 2.0], abs=1e-4)
    assert "half" in svg
    assert "over" in svg


def test_gaps_stay_gaps() -> None:
    y = np.arange(20.0)
    y[7:9] = np.nan
    svg = lines_svg([Line(name="a", x=np.arange(1, 21), y=y)], name="x", alt="x", ylabel="y")
    (path,) = [p for p in re.findall(r'd="(M [^"]*)"', svg) if p.count("L ") > 5]
    assert path.count("M ") == 2
    assert len(re.findall("[ML] ", path)) == 18


@pytest.mark.parametrize("n", [1, 599, 600, 601, 5_000, 12_345])
def test_long_curves_keep_their_ends_and_their_spikes(n: int) -> None:
    x = np.arange(1, n + 1)
    values = np.random.default_rng(n).normal(size=n)
    values[n // 2] = 99
    kept_x, kept_y = subsample(x, values)
    assert len(kept_x) <= MOST_POINTS + 1
    assert (kept_x[0], kept_x[-1]) == (1, n)
    np.testing.assert_array_equal(kept_y, values[kept_x - 1])
    middle, low, high = stretches(x, values)
    assert len(middle) <= MOST_POINTS
    assert high.max() == 99
    assert low.min() == values.min()
    nothing = stretches(x, np.full(n, np.nan))
    assert np.isnan(nothing[1]).all()


def test_the_same_bytes_every_time_and_nothing_else(tmp_path: Path, one: Path) -> None:
    before = {p.name for p in one.iterdir()}
    told = write_report([one])
    assert len(told) == 2
    assert {p.name for p in one.iterdir()} - before == {"report.html", "report.png"}
    write_report([one], tmp_path)
    for name in ("report.html", "report.png"):
        assert (tmp_path / name).read_bytes() == (one / name).read_bytes()
        (one / name).unlink()


def test_picture_has_the_colours_of_its_runs(tmp_path: Path, three: list[Path]) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    from cellscribe.report.colours import PALETTE

    write_report(three, tmp_path)
    pixels = imread(tmp_path / "report.png")[:, :, :3]
    assert pixels.shape[1] == 1_600
    for colour in PALETTE[:3]:
        assert (np.abs(pixels - to_rgb(colour)).max(axis=2) < 0.02).sum() > 2_000
    assert (np.abs(pixels - to_rgb(PALETTE[3])).max(axis=2) < 0.02).sum() == 0


def test_the_verb_tells_its_files_and_warnings(run: Cli, tmp_path: Path, three: list[Path]) -> None:
    ran = run("report", *three, "-o", tmp_path)
    assert ran.status == 0
    assert ran.out.split() == [str(tmp_path / "report.html"), str(tmp_path / "report.png")]
    assert "Warning: b/run: Not finished: 180 of 200 steps." in ran.err
    nothing_new(tmp_path, "report.html", "report.png")
    page = Page((tmp_path / "report.html").read_text())
    assert page.text.startswith("3 training runs")


def test_refusals_are_one_line_and_leave_nothing(run: Cli, tmp_path: Path, one: Path) -> None:
    assert "is no training run: no such folder" in refused(
        run("report", tmp_path / "x", "-o", tmp_path)
    )
    assert "is named twice" in refused(run("report", one, one, "-o", tmp_path))
    assert "no such folder; make it first" in refused(run("report", one, "-o", tmp_path / "x"))
    many = [write_run(tmp_path / f"{i}", 2) for i in range(21)]
    out = tmp_path / "out"
    (out / "report.png").mkdir(parents=True)
    assert "21 runs are more than colours can tell apart" in refused(
        run("report", *many, "-o", out)
    )
    assert "report.png is a folder" in refused(run("report", one, "-o", out))
    nothing_new(out, "report.png")


def test_missing_matplotlib_is_told_before_any_work(
    tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r'pip install "cellscribe\[report\]"'):
        write_report([one], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.browser
def test_page_opens_without_complaint_or_network(tmp_path: Path, hostile: Path) -> None:
    write_report([hostile], tmp_path)
    done = open_page(tmp_path, tmp_path / "report.html", "--dump-dom", "--window-size=1280,1000")
    assert not complaints(done.stderr)
    assert not fetched(tmp_path)
    assert "owned</title>" not in done.stdout
    assert "Loss over steps" in Page(done.stdout).text


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "options"), [(1200, ()), (400, ()), (1200, DARK)], ids=["desktop", "phone", "dark"]
)
def test_page_looks_like_something(
    tmp_path: Path, one: Path, width: int, options: tuple[str, ...]
) -> None:
    from matplotlib.image import imread

    write_report([one], tmp_path)
    picture = tmp_path / "page.png"
    # a window of Chromium is never as narrow as a phone, but a frame is
    frame = tmp_path / "frame.html"
    style = f"display:block;width:{width}px;height:4000px;border:0"
    frame.write_text(f'<body style="margin:0"><iframe src="report.html" style="{style}"></iframe>')
    done = open_page(
        tmp_path, frame, "--window-size=1300,4000", f"--screenshot={picture}", *options
    )
    assert not complaints(done.stderr)
    pixels = np.rint(imread(picture)[:, :width, :3] * 255).astype(int)
    corner = pixels[2, 2]
    assert (corner < 40).all() if options else (corner > 230).all()
    drawn = np.abs(pixels - corner).max(axis=2) > 60
    assert 0.01 < drawn.mean() < 0.5
    # nothing is wider than the page: its margin stays empty
    margin = 10 if width == 400 else 20
    assert not drawn[:, -margin:].any()
    for colour in ((0x4F, 0xB3, 0xB8) if options else (0x2A, 0x7F, 0x86), (0xD5, 0x5E, 0x00)):
        assert (np.abs(pixels - colour).max(axis=2) <= 2).sum() > 250


def test_parts_of_the_second_objective_are_drawn_where_a_run_has_them(
    tmp_path: Path, text: str
) -> None:
    lines = metrics(60, every=20)
    for line in lines[:-1]:  # the last step was skipped
        line |= {"regression": 1 / line["step"], "contrast": 2.0}
    runs = read_runs([write_run(tmp_path / "run", lines)])
    [run] = runs.values()
    np.testing.assert_allclose(run.objective["regression"][:-1], 1 / np.arange(1, 60))
    assert np.isnan(run.objective["contrast"][-1])
    page = render_page(runs)
    for title in ("Regression", "Contrast"):
        assert f"Curves: {title}. " in page
        assert f"Curves: {title}. " not in text
    assert "loss of regression" not in page
    assert set(run.validation) == {"val", "test_unseen"}
