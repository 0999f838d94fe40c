"""Kinds of columns: what is detected, and the transform that is proposed."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from jaxflow.transforms import kinds, propose
from jaxflow.transforms.kinds import ContinuousColumn, GridColumn, LimitedColumn, kind_of

RNG = np.random.default_rng(4)
N = 4000


class Case(NamedTuple):
    """A column, its kind, and words of the reason that is given."""

    column: np.ndarray
    kind: type
    words: str = ""


COLUMNS = {
    "normal": Case(RNG.normal(size=N), ContinuousColumn),
    "large": Case(1e6 * RNG.normal(size=N), ContinuousColumn),
    "with an atom": Case(
        np.where(RNG.uniform(size=N) < 0.1, 0.0, RNG.normal(size=N)),
        ContinuousColumn,
        "are exactly 0: an atom",
    ),
    "counts": Case(RNG.poisson(4.0, N), GridColumn, "steps of 1: dequantised, log_prob is log P"),
    "decimals": Case(np.round(RNG.normal(size=N), 1), GridColumn, "steps of 0.1:"),
    "steps of a thousand": Case(1e3 * RNG.poisson(40.0, N), GridColumn, "steps of 1000:"),
    "whole and wide": Case(np.floor(1e3 * RNG.uniform(size=N)) ** 2 % 977, ContinuousColumn),
    "steps of five": Case(5 * RNG.poisson(4.0, N) + 3, GridColumn, "steps of 5:"),
    "classes": Case(RNG.integers(0, 2, N), GridColumn, "; two values, 0 and 1"),
    "share": Case(RNG.uniform(size=N), LimitedColumn, "within (0, 1): logit"),
    "income": Case(np.exp(2 * RNG.normal(size=N)), LimitedColumn, "positive and skewed: log"),
}


def check_kind(case, name="column"):
    """Hold a kind to its column: it is detected, explained, and its transform takes the data."""
    kind = kind_of(case.column)
    assert type(kind) is case.kind, name
    # Values rounded to float32 are of the same kind.
    assert type(kind_of(case.column.astype(np.float32))) is case.kind, name
    table = np.stack([RNG.normal(size=N), case.column], axis=1)
    proposal = propose(table, ["other", name])
    assert [type(kind) for kind in proposal.kinds] == [ContinuousColumn, case.kind]
    assert case.words in str(proposal)
    assert str(proposal).startswith(f"{name}: ") == bool(case.words)
    assert len(proposal.parts) == (case.kind is not ContinuousColumn)
    for part in proposal.parts:
        part.check(table)
        u, log_det = map(np.asarray, jax.jit(jax.vmap(part.forward))(table))
        np.testing.assert_array_equal(u[:, 0], table[:, 0])
        assert np.isfinite(u).all()
        assert np.isfinite(log_det).all()


@pytest.mark.parametrize("name", COLUMNS)
def test_each_kind_of_column_is_detected(name):
    check_kind(COLUMNS[name], name)


def test_parts_are_applied_in_the_order_of_the_kinds():
    table = np.stack([case.column for case in COLUMNS.values()], axis=1)
    proposal = propose(table)
    assert [type(part).__name__ for part in proposal.parts] == ["Dequantise", "Bounded"]
    assert [type(kind) for kind in proposal.kinds] == [case.kind for case in COLUMNS.values()]
    np.testing.assert_allclose(proposal.parts[0].step, [0, 0, 0, 1, 0.1, 1e3, 0, 5, 1, 0, 0])
    np.testing.assert_array_equal(proposal.parts[1].upper[-3:], [np.inf, 1.0, np.inf])
    np.testing.assert_array_equal(proposal.parts[1].lower[-3:], [-np.inf, 0.0, 0.0])
    for part in proposal.parts:
        part.check(table)


def test_the_last_kind_takes_every_column():
    assert kinds.KINDS[-1] is ContinuousColumn
    proposal = propose(np.random.default_rng(0).normal(size=(500, 2)))
    assert proposal.parts == ()
    assert str(proposal) == ""


@pytest.mark.filterwarnings("ignore:.* goes in jaxflow 0.3:DeprecationWarning")
def test_kinds_have_the_attributes_of_version_0_1():
    found = [kind_of(COLUMNS[name].column) for name in ("normal", "counts", "share", "income")]
    assert [kind.word for kind in found] == ["continuous", "grid", "bounded", "positive"]
    assert [kind.step for kind in found] == [0.0, 1.0, 0.0, 0.0]
    with pytest.raises(AttributeError, match="ContinuousColumn has no attribute 'scale'"):
        _ = found[0].scale


def test_one_hot_columns_and_repeated_rows_are_reported():
    classes = np.eye(3)[RNG.integers(0, 3, 300)]
    table = np.concatenate([classes, RNG.normal(size=(300, 1))], axis=1)
    table[1] = table[0]
    notes = propose(table).notes
    assert any("1 of 300 rows repeat another one" in note for note in notes)
    assert any("columns 0, 1, 2 are one-hot" in note for note in notes)


def test_rows_that_are_not_vectors_are_refused():
    with pytest.raises(ValueError, match=r"give rows \(n, dim\)"):
        propose(np.zeros(5))


def test_limits_that_a_user_says():
    x = np.stack([RNG.beta(2, 2, N), RNG.poisson(4.0, N), RNG.normal(size=N)], axis=1)
    names = ["share", "count", "z"]
    said = {"share": (0, 2), "count": "continuous", "z": (-np.inf, 9)}
    proposal = propose(x, names, said)
    (limits,) = proposal.parts
    np.testing.assert_array_equal(limits.lower, [0.0, -np.inf, -np.inf])
    np.testing.assert_array_equal(limits.upper, [2.0, np.inf, 9.0])
    assert str(proposal).startswith("share: within (0, 2): logit")
    assert "z: below 9: logarithm" in str(proposal)
    assert propose(x, names, {"share": "positive"}).parts[-1].lower[0] == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((0, 0.5), r"kinds\['share'\]=\(0, 0.5\) does not fit row \d+, whose value 0\.\d+ is not"),
        ((1, 0), "must be limits"),
        ((-np.inf, np.inf), "one of them finite"),
        (5, r"neither one of continuous, positive nor limits such as \(0, 1\)"),
        ("round", "is unknown; choose"),
    ],
)
def test_limits_that_do_not_fit_are_refused(said, words):
    x = np.stack([RNG.beta(2, 2, 200), RNG.normal(size=200)], axis=1)
    with pytest.raises(ValueError, match=words):
        propose(x, ["share", "z"], {"share": said})
