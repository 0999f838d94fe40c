"""`diagnose` finds what is wrong and passes what is right, for flows of both kinds.

`python benchmarks/diagnose.py` prints how often, over more rows and seeds.
"""

import jax
import pytest
from tests.diagnostics.flows import RIGHT, WRONG

from jaxflow.diagnostics import diagnose, two_sample

# Of each kind, cases that share their compiled code.
QUICK_WRONG = ("half of the trace", "other units")
QUICK_RIGHT = ("linear", "rotation")


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(two_sample, "TREES", 40)


def table(cases, quick):
    """Parametrise by all cases; those that are not named are slow."""
    marks = {name: () if name in quick else pytest.mark.slow for name in cases}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=marks[n]) for n in cases])


def problems(case, num):
    flow, x, cond = case(num, 1)
    return diagnose(flow, x, cond, key=jax.random.key(1), num_samples=num).problems


@table(WRONG, QUICK_WRONG)
def test_what_is_wrong_is_named(name):
    case, words = WRONG[name]
    assert words in "\n".join(problems(case, 250 if name in QUICK_WRONG else 500))


@table(RIGHT, QUICK_RIGHT)
def test_what_is_right_passes(name):
    assert problems(RIGHT[name], 250 if name in QUICK_RIGHT else 500) == ()
