"""The history of a training: a dict that prints as a table and draws itself."""

import copy
import json
import math
import pickle
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxflow
from jaxflow.io import serialisation
from jaxflow.training import History, TrainConfig, fit

KEY = jax.random.key(0)
LOSSES = [3.0, 2.0, math.nan, 1.0, 2.5]
HISTORY = History(
    step=[10, 20, 30, 40, 1050],
    loss=LOSSES,
    validation=[3.5, 2.5, math.inf, 1.5, 1.75],
    learning_rate=[2e-3] * 5,
)


def test_the_table_has_each_validation_and_marks_the_lowest():
    head, *rows, loss, validation, best = str(HISTORY).split("\n")
    assert head.split() == ["step", "loss", "validation", "learning_rate"]
    assert len(rows) == 5
    assert rows[3].split() == ["40", "1.000", "1.500", "0.002", "<-", "lowest"]
    assert rows[4].split() == ["1,050", "2.500", "1.750", "0.002"]
    assert "nan" in rows[2]
    assert "inf" in rows[2]
    assert loss == "loss        █▅ ▁▆  1.000 to 3.000"
    assert validation == "validation  █▅ ▁▂  1.500 to 3.500"
    assert best == ("best at step 40 of 1,050; validation rose by 0.250 after it: over-trained")
    assert HISTORY._repr_html_() == f"<pre>{HISTORY!s}</pre>".replace("<- ", "&lt;- ")


def test_a_long_table_keeps_the_first_the_last_and_the_lowest_row():
    values = [float((i - 77) ** 2) for i in range(200)]
    long = History(step=list(range(200)), loss=values, validation=values)
    _, *rows, loss, _, _ = str(long).split("\n")
    steps = [int(row.split()[0]) for row in rows]
    assert steps[0] == 0
    assert steps[-1] == 199
    assert 77 in steps
    assert len(steps) <= 13
    assert len(loss.split("  ")[-2]) == 48


def test_short_and_odd_histories_print():
    assert str(History()) == str(History(step=[], loss=[])) == "no validation so far"
    assert "not finite" in str(History(step=[1], loss=[math.nan], validation=[math.nan]))
    assert "▁▁  2.000 to 2.000" in str(History(step=[1, 2], loss=[2.0, 2.0]))


def test_a_terminal_without_blocks_gets_other_bars(monkeypatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="cp1252"))
    str(HISTORY).encode("cp1252")


def test_it_is_a_dict_for_everything_else():
    plain = dict(HISTORY)
    assert plain == HISTORY
    assert repr(HISTORY) == repr(plain)
    assert json.dumps(HISTORY) == json.dumps(plain)
    for again in (copy.deepcopy(HISTORY), pickle.loads(pickle.dumps(HISTORY))):
        assert type(again) is History
        assert repr(again) == repr(HISTORY)
    assert serialisation.encode_plain(HISTORY, "") == serialisation.encode_plain(plain, "")
    places = jax.tree_util.tree_leaves_with_path(plain)
    assert [path for path, _ in jax.tree_util.tree_leaves_with_path(HISTORY)] == [
        path for path, _ in places
    ]
    doubled = jax.tree.map(lambda value: 2 * value, HISTORY)
    np.testing.assert_array_equal(doubled["loss"], 2 * np.array(LOSSES))


def test_it_draws_itself():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = HISTORY.plot()
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), LOSSES)
    assert HISTORY.plot(ax) is ax
    pyplot.close(ax.figure)


@pytest.mark.slow
def test_fit_returns_one_and_goes_on_with_one(tmp_path):
    flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, width=4, key=KEY), jaxflow.StandardNormal(2))
    x = jax.random.normal(KEY, (64, 2))
    settings = {"steps": 4, "eval_every": 2, "batch_size": 16}
    run = {"key": KEY, "config": TrainConfig(**settings), "checkpoint": tmp_path / "state"}
    run |= {"transform": None}
    _, history = fit(flow, x, **run)
    _, again = fit(flow, x, **run, resume=True)
    assert type(history) is type(again) is History
    assert history == again
    assert history["step"] == [2, 4]
    jaxflow.save(tmp_path / "flow", flow, extra={"history": history})
    assert jaxflow.io.load_extra(tmp_path / "flow")["history"] == history
