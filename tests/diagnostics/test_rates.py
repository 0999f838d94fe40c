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


def problems(case, num):
    flow, x, cond = case(num, 1)
    return diagnose(flow, x, cond, key=jax.random.key(1), num_samples=num).problems


@pytest.mark.quick(*QUICK_WRONG)
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    case, words = WRONG[name]
    assert words in "\n".join(problems(case, 250 if name in QUICK_WRONG else 500))


@pytest.mark.quick(*QUICK_RIGHT)
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name):
    assert problems(RIGHT[name], 250 if name in QUICK_RIGHT else 500) == ()
