"""Samples as data sets of xarray and ArviZ."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.interop.arviz import to_arviz, to_xarray

pytest.importorskip("xarray")


def test_columns_are_variables_by_name():
    x = jnp.arange(24.0).reshape(4, 6)
    data = to_xarray(x, np.array(list("abcdef"), object))
    assert dict(data.sizes) == {"chain": 1, "draw": 4}
    assert list(data) == list("abcdef")
    np.testing.assert_array_equal(data["c"].values, x[None, :, 2])
    chains = to_xarray(x.reshape(2, 2, 6), list("abcdef"))
    np.testing.assert_array_equal(chains["b"].sel(chain=1).values, x[2:, 1])


def test_events_without_names_are_one_variable():
    data = to_xarray(np.zeros((5, 2, 3)))
    assert data["x"].dims == ("chain", "draw", "x_dim_0", "x_dim_1")
    assert data["x"].shape == (1, 5, 2, 3)


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"shape \(4, 6\) and there are 2 names; give \(draws, 2\)"
    ):
        to_xarray(np.zeros((4, 6)), ["a", "b"])
    with pytest.raises(ValueError, match=r"\['a', 'a'\] must differ"):
        to_xarray(np.zeros((4, 2)), ["a", "a"])
    with pytest.raises(ValueError, match=r"x has shape \(\); give samples"):
        to_xarray(1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_arviz_summarises_samples():
    arviz = pytest.importorskip("arviz")
    x = np.random.default_rng(0).normal([1.0, -3.0], [0.5, 2.0], (2000, 2))
    table = arviz.summary(to_arviz(x, ["mass", "radius"]), kind="stats")
    assert list(table.index) == ["mass", "radius"]
    np.testing.assert_allclose(table["mean"].astype(float), [1.0, -3.0], atol=0.15)
