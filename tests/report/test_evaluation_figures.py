"""Figures of an evaluation: dots and lines lie where their numbers are."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from support.evaluations import around

from cellscribe.evaluation.scores import Curve, Estimate
from cellscribe.report.evaluation_figures import dots_svg, lines_svg, looks


def dots(svg: str) -> list[tuple[float, float, float]]:
    """Dot, and the ends of its interval, of each row."""
    root = ElementTree.fromstring(svg)
    lines = [line for line in root.iter("line") if line.get("stroke-width") == "2"]
    circles = [float(circle.get("cx", "nan")) for circle in root.iter("circle")]
    return [
        (x, float(line.get("x1", "nan")), float(line.get("x2", "nan")))
        for x, line in zip(circles, lines, strict=True)
    ]


def test_dots_lie_where_their_figures_are() -> None:
    values = (0.2, 0.55, 0.9)
    figures = {f"m{n}": around(value) for n, value in enumerate(values)}
    known = looks(dict.fromkeys(figures, "model"))
    svg = dots_svg(figures, known, dict.fromkeys(figures, "x"), alt='a "quoted" <alt>')
    assert ElementTree.fromstring(svg).get("aria-label") == 'a "quoted" <alt>'
    (a, a_low, a_high), (b, *_), (c, *_) = dots(svg)
    assert (b - a) / (c - a) == pytest.approx(0.5, abs=1e-3)
    assert (a - a_low) / (c - a) == pytest.approx(0.01 / 0.7, abs=1e-3)
    assert (a_high - a) / (c - a) == pytest.approx(0.02 / 0.7, abs=1e-3)


@pytest.mark.parametrize("log", [True, False])
def test_lines_go_through_their_points_and_leave_gaps(log: bool) -> None:
    x = [1.0, 10.0, 100.0, 200.0, 400.0, 1000.0]
    y = [0.0, 1.0, 2.0, math.nan, 2.5, 3.0]
    curve = Curve(x=x, y=y, x_label="x", y_label="y", log_x=log)
    root = ElementTree.fromstring(lines_svg({"a": curve}, looks({"a": "model"}), alt="x"))
    drawn = [
        [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
        for line in root.iter("polyline")
    ]
    assert [len(each) for each in drawn] == [3, 2]
    points = [point for each in drawn for point in each]
    kept = [(math.log10(a) if log else a, b) for a, b in zip(x, y, strict=True) if b == b]
    for axis, sign in ((0, 1), (1, -1)):
        first, last = points[0][axis], points[-1][axis]
        assert (last - first) * sign > 0
        for point, truth in zip(points, kept, strict=True):
            share = (truth[axis] - kept[0][axis]) / (kept[-1][axis] - kept[0][axis])
            assert (point[axis] - first) / (last - first) == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize("value", [0.0, 1e-9, 5.0, -3.0, 1e7])
def test_figures_of_one_value_are_drawn(value: float) -> None:
    known = looks({"a": "model"})
    only = Estimate(value=value, low=math.nan, high=math.nan)
    assert "nan" not in dots_svg({"a": only}, known, {"a": "x"}, alt="x")
    curve = Curve(x=[0.0], y=[value], x_label="x", y_label="y", log_x=True)
    assert "nan" not in lines_svg({"a": curve}, known, alt="x")
    nothing = replace(curve, y=[math.nan])
    assert "nan" not in lines_svg({"a": nothing}, known, alt="x")
