"""`benchmarks/mixed.py`: the densities that it compares with are densities of their samples."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jaxflow.tables.frames import read_cells
from jaxflow.tables.plan import Coded, Plan

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
baselines, columns, measures, tables = map(
    import_module, ("mixed_baselines", "mixed_columns", "mixed_measures", "mixed_tables")
)


def coded(name, n):
    """A known density: its plan, columns, rows and their log-densities."""
    frame, log_p = tables.KNOWN[name](np.random.default_rng(0), n)
    plan = Plan.of(read_cells(frame), None, (), "dict")
    rows = plan.read(frame)
    return plan, columns.columns_of(plan, plan.laws(rows.codes)), rows, log_p


@pytest.mark.parametrize("fit", ["fit_tree", "fit_classes"])
def test_a_baseline_is_a_density(fit):
    _, each, rows, _ = coded("spam", 1000)
    model = getattr(baselines, fit)(each, rows)
    # paid, its amount's atom 0, and the amount.
    y = np.exp(np.linspace(-8, 8, 20001))
    total = 0.0
    for paid in (0.0, 1.0):
        atom = Coded(np.array([[paid, 1.0]]), np.full((1, 1), np.nan))
        others = Coded(np.tile([paid, 0.0], (len(y), 1)), (y / 1.0)[:, None])
        total += np.exp(model.log_prob(atom))[0]
        total += np.trapezoid(np.exp(model.log_prob(others)), y)
    assert abs(total - 1) < 1e-3


@pytest.mark.parametrize("fit", ["fit_tree", "fit_classes"])
@pytest.mark.parametrize("name", ["cities", "gaps", "counts"])
@pytest.mark.slow
def test_a_baseline_is_near_the_truth_of_a_simple_table(fit, name):
    plan, each, rows, log_p = coded(name, 2000)
    model = getattr(baselines, fit)(each, rows)
    scale = np.where(np.isnan(rows.y), 0.0, plan.log_scales).sum(axis=1)
    lost = log_p - model.log_prob(rows) + scale
    assert -0.05 < lost.mean() < 1.0
    drawn = model.sample(3000, np.random.default_rng(1))
    gap = model.log_prob(drawn).mean() - model.log_prob(rows).mean()
    assert abs(gap) < 0.15
    plan.read(plan.write(drawn))


def test_a_copula_has_the_columns_of_the_table():
    plan, each, rows, _ = coded("gaps", 2000)
    drawn = baselines.Copula(each, rows).sample(4000, np.random.default_rng(0))
    plan.read(plan.write(drawn))
    frames = [pd.DataFrame(plan.write(part)) for part in (rows, drawn)]
    found = measures.errors(*measures.Views.of(frames))
    assert found[0] < 0.04
    assert found[1] < 0.1


def test_measures_of_rows_themselves_and_of_others():
    rng = np.random.default_rng(0)
    a, b = (
        pd.DataFrame({"city": rng.choice(["x", "y"], 500), "n": rng.poisson(2.0, 500)})
        for _ in range(2)
    )
    assert measures.impossible(a, a) == 0
    same, other = measures.Views.of([a, b])
    assert measures.errors(same, same) == (0.0, 0.0)
    assert 0 < measures.errors(same, other)[0] < 0.1
    b["n"] = b["n"] - 1
    b.loc[:9, "city"] = "z"
    wrong = (b["n"] < 0) | (b["city"] == "z")
    assert measures.impossible(a, b) == wrong.sum()
    assert measures.nearest(same, same) == 0.0
