"""Samples of a flow as named variables of xarray and ArviZ."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxflow.runtime.extras import import_extra
from jaxflow.runtime.shapes import ArrayInput


def to_xarray(x: ArrayInput, names: Sequence[str] | np.ndarray | None = None) -> Any:
    """Samples as an `xarray.Dataset` with a variable for each column.

    ```python
    import jax

    from jaxflow import StandardNormal
    from jaxflow.interop.arviz import to_xarray

    base = StandardNormal(2)
    x = jax.vmap(base.sample)(jax.random.split(jax.random.key(0), 1000))
    print(to_xarray(x, ["mass", "radius"]).mean())
    ```

    Args:
        x: samples, (draws, *event), such as `flow.sample(key, 1000)` or `density.sample(1000)`;
            with `names` also (chains, draws, columns).
        names: names of the columns, such as `density.feature_names_in_` or, after `jaxflow fit`,
            `jaxflow.io.load_extra("run/flow.safetensors")["columns"]`. None makes one variable `x`
            with the axes of an event.

    Returns:
        The data set, with the dimensions `chain` and `draw`.

    Raises:
        ImportError: xarray is not installed.
        ValueError: the names are not unique, or not one for each column; or `x` has no draws.
    """
    xarray = import_extra("xarray", "arviz", "to_xarray needs xarray")
    values = np.asarray(x)
    if names is None:
        if values.ndim < 1:
            raise ValueError(f"x has shape {values.shape}; give samples (draws, *event)")
        axes = [f"x_dim_{i}" for i in range(values.ndim - 1)]
        return xarray.Dataset({"x": (("chain", "draw", *axes), values[None])})
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"names={names} must differ from one another")
    if values.ndim not in (2, 3) or values.shape[-1] != len(names):
        raise ValueError(
            f"x has shape {values.shape} and there are {len(names)} names; give (draws, "
            f"{len(names)}) or (chains, draws, {len(names)})"
        )
    chains = values if values.ndim == 3 else values[None]
    columns = {name: (("chain", "draw"), chains[..., i]) for i, name in enumerate(names)}
    return xarray.Dataset(columns)


def to_arviz(x: ArrayInput, names: Sequence[str] | np.ndarray | None = None) -> Any:
    """Samples for ArviZ, as the group `posterior`.

    `arviz.summary(to_arviz(x, ["mass", "radius"]))` is a table of the columns.

    Args:
        x: samples, as for `to_xarray`.
        names: names of the columns, as for `to_xarray`.

    Returns:
        An `arviz.InferenceData`, from ArviZ 1.0 on an `xarray.DataTree`.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: as `to_xarray`.
    """
    arviz = import_extra("arviz", "arviz", "to_arviz needs ArviZ")
    convert = getattr(arviz, "convert_to_inference_data", None) or arviz.convert_to_datatree
    return convert(to_xarray(x, names), group="posterior")
