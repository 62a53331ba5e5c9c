"""The page of a predicted number: its figures against pandas and scikit-learn, and its words."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error
from support.browser import Page, complaints, fetched, open_page

from cellscribe.annotation.regression import HeldOutNumbers, figures_of
from cellscribe.model.several_heads import NumberHead
from cellscribe.report.number_page import render_number

HOSTILE = "<script>document.title='owned'</script>"


def made(*, noise: float = 1.0, target: str = "age", grouped: bool = True) -> tuple:
    rng = np.random.default_rng(0)
    values = rng.uniform(20, 80, 400)
    donor = rng.integers(4, size=400)
    predicted = values + rng.normal(0, noise, 400) + 5 * (donor == 2)
    names = np.array([f"donor {each}" for each in donor], object)
    found = HeldOutNumbers(values=values, predicted=predicted, groups=names if grouped else None)
    ridge = values + rng.normal(0, 3, 400)
    figures = {
        "model": asdict(figures_of(predicted, values)),
        "ridge": asdict(figures_of(ridge, values)),
        "mean": asdict(figures_of(np.full(400, values.mean()), values, ranked=False)),
    }
    interval = {"coverage": 0.9, "groups": 4, "reached": 0.88, "worst_fold": 0.7}
    about = {"group": "donor" if grouped else None}
    head = NumberHead(
        target=target,
        weight=np.zeros((1, 2), np.float32),
        bias=np.zeros(1, np.float32),
        half_width=4.0,
        coverage=0.9,
        range=(20.0, 80.0),
        about=about | {"held_out": {"figures": figures, "interval": interval}},
    )
    return found, head


def page_of(found: HeldOutNumbers, head: NumberHead) -> str:
    return render_number(found, head, title=f"mini on {head.target}", source="x", facts={"a": "b"})


def test_the_page_says_whether_the_model_is_of_use() -> None:
    good, bad = (page_of(*made(noise=noise)) for noise in (1.0, 9.0))
    assert "the model beats both." in Page(good).text
    assert 'class="card verdict"' in good
    assert "the model beats the mean, but not plain genes: take these instead." in Page(bad).text
    assert 'class="card verdict bad"' in bad


def test_groups_are_pandas_the_worst_first() -> None:
    found, head = made()
    page = Page(page_of(found, head))
    shown = next(rows for rows in page.tables if rows[0][0] == "donor")[1:]
    table = pd.DataFrame({"group": found.groups, "off": found.predicted - found.values})
    off = table.groupby("group")["off"]
    assert shown[0][0] == "donor 2"
    for name, n, mae, middle, inside in shown:
        own = off.get_group(name)
        assert n == f"{len(own)}"
        assert mae == f"{mean_absolute_error(own, np.zeros(len(own))):.3g}"
        assert middle == f"{own.median():+.3g}"
        assert inside == f"{(own.abs() <= 4).mean():.1%}"
    assert "donor donor 2 fared worst" in page.text


def test_without_groups_it_warns() -> None:
    text = Page(page_of(*made(grouped=False))).text
    assert "No --group was given" in text
    assert "Held-out groups" not in text


def test_points_lie_where_their_values_are() -> None:
    found, head = made()
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="1.8"', page_of(found, head))
    assert len(circles) == 400
    order = np.random.default_rng(0).permutation(400)
    x, y = np.array(circles, float).T
    assert np.corrcoef(x, found.values[order])[0, 1] == pytest.approx(1, abs=1e-5)
    assert np.corrcoef(y, found.predicted[order])[0, 1] == pytest.approx(-1, abs=1e-5)


@pytest.mark.browser
def test_it_fits_a_phone_and_runs_nothing_of_the_input(tmp_path: Path) -> None:
    text = page_of(*made(target=HOSTILE))
    page = tmp_path / "page.html"
    page.write_text(text)
    done = open_page(tmp_path, page, "--dump-dom", "--window-size=420,900")
    assert not complaints(done.stderr)
    assert not fetched(tmp_path)
    assert "<title>owned</title>" not in done.stdout
    measure = "<script>document.title = document.documentElement.scrollWidth - innerWidth</script>"
    page.write_text(re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", measure))
    done = open_page(tmp_path, page, "--dump-dom", "--window-size=420,900")
    found = re.search(r"<title>(-?\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= 0
