"""Colours, the PNG map and the histograms."""

from __future__ import annotations

import itertools
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from cellscribe.errors import InputError
from cellscribe.report.colours import PALETTE, colour_by_depth, colour_by_label
from cellscribe.report.figures import MAP_SIZE, histogram_svg, write_map

# Machado, Oliveira & Fernandes (2009), severity 1.0, on linear RGB
DICHROMACY = {
    "protan": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 1.051998",
    "deutan": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.011820 0.042940 0.968881",
    "tritan": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 0.004733 0.691367 0.303900",
    "normal": "1 0 0 0 1 0 0 0 1",
}


def linear_rgb(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def cie_lab(linear: np.ndarray) -> np.ndarray:
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    f = np.cbrt(np.clip(to_xyz @ linear, 0.008856, None) / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


@pytest.mark.parametrize("vision", DICHROMACY)
def test_palette_is_told_apart(vision: str) -> None:
    # measured in CIELAB, another space than the one that the palette was searched in
    matrix = np.array(DICHROMACY[vision].split(), dtype=float).reshape(3, 3)
    seen = [cie_lab(np.clip(matrix @ linear_rgb(c), 0, 1)) for c in PALETTE]
    least = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))
    assert least > 5  # about 2 is just noticeable


def test_palette_stands_out_from_both_pages() -> None:
    for colour, page in itertools.product(PALETTE, ("#ffffff", "#171e24")):
        light, dark = sorted(
            (float(linear_rgb(c) @ [0.2126, 0.7152, 0.0722]) for c in (colour, page)), reverse=True
        )
        assert (light + 0.05) / (dark + 0.05) > 1.7, (colour, page)


def test_commonest_classes_keep_their_colours_and_the_rest_is_folded() -> None:
    labels = [f"class {i:02d}" for i in range(25) for _ in range(30 - i)] + ["nan", ""]
    colouring = colour_by_label(labels)
    assert colouring.names[:20] == tuple(f"class {i:02d}" for i in range(20))
    assert colouring.names[20:] == ("5 other classes", "no label")
    assert colouring.counts[:20] == tuple(30 - i for i in range(20))
    assert colouring.counts[20:] == (sum(30 - i for i in range(20, 25)), 2)
    assert colouring.n_tagged == 20
    assert len(set(colouring.colours)) == 22
    assert colouring.codes[-1] == 21


def test_twenty_classes_are_not_folded() -> None:
    names = colour_by_label([f"class {i:02d}" for i in range(20)]).names
    assert names == tuple(f"class {i:02d}" for i in range(20))


def test_depth_scale_rises_with_the_logarithm() -> None:
    codes = colour_by_depth(np.array([0, 1, 10, 100, 1000])).codes
    assert codes.tolist() == [0, 0, 10, 21, 31]
    assert colour_by_depth(np.full(3, 7)).codes.tolist() == [0, 0, 0]


@pytest.mark.parametrize("labels", [None, ["a $x$", "b" * 90, "<c>"] * 10])
def test_map_is_a_png_of_the_stated_size(tmp_path: Path, labels: list[str] | None) -> None:
    xy = np.random.default_rng(0).normal(size=(30, 2))
    xy[3] = np.nan
    write_map(tmp_path / "map.png", xy, labels, "type", "A $title$ that costs $5")
    assert png_size(tmp_path / "map.png") == MAP_SIZE
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]


def test_map_shows_the_colours_of_its_classes(tmp_path: Path) -> None:
    from matplotlib.image import imread

    xy = np.repeat([[0.0, 0.0], [9.0, 9.0]], 50, axis=0)
    xy += np.random.default_rng(0).normal(size=xy.shape)
    write_map(tmp_path / "map.png", xy, ["a"] * 50 + ["b"] * 50, "type", "two")
    pixels = np.rint(imread(tmp_path / "map.png")[..., :3] * 255).astype(int).reshape(-1, 3)
    for colour in PALETTE[:3]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == rgb).all(axis=1).any() == (colour != PALETTE[2])


def test_drawing_leaves_the_callers_matplotlib_alone(tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 31}):
        before = dict(matplotlib.rcParams)
        write_map(tmp_path / "map.png", np.eye(2), None, None, "t")
        assert dict(matplotlib.rcParams) == before


def test_missing_matplotlib_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r'pip install "cellscribe\[report\]"'):
        write_map(tmp_path / "map.png", np.eye(2), None, None, "t")
    assert not list(tmp_path.iterdir())


def test_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_map(tmp_path / "nowhere" / "map.png", np.eye(2), None, None, "t")


def test_histogram_is_one_well_formed_svg_in_page_colours() -> None:
    svg = histogram_svg(
        np.array([1, 2, 2, 3]),
        np.array([0.5, 1.5, 2.5, 3.5]),
        name="x",
        xlabel="things",
        alt='a "quoted" <alt>',
        median=2,
        limit=3,
        limit_label="limit 3",
    )
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("aria-label") == 'a "quoted" <alt>'
    texts = {"".join(element.itertext()).strip() for element in root.iter("text")}
    assert {"median 2", "limit 3", "things", "cells"} <= texts
    assert "#0102" not in svg
    assert {"--ink", "--accent", "--alert", "--rule"} <= set(re.findall(r"var\((--\w+)\)", svg))


def test_histogram_bars_have_the_counts_as_heights() -> None:
    svg = histogram_svg(
        np.array([1, 2, 2, 2, 3, 3]),
        np.array([0.5, 1.5, 2.5, 3.5]),
        name="x",
        xlabel="x",
        alt="x",
    )
    (outline,) = re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--accent\)', svg)
    y = np.array(re.findall(r"[ML] [\d.]+ ([\d.]+)", outline), dtype=float)
    heights = sorted(set(np.round(y.max() - y, 3)))
    np.testing.assert_allclose(np.array(heights[1:]) / heights[1], [1, 2, 3], rtol=1e-4)
