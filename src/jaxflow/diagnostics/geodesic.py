"""Two-sample test on a manifold, by a kernel of lengths of geodesics."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import LEAST, flatten, too_few
from jaxflow.diagnostics.two_sample import MMD, exchange_test
from jaxflow.manifolds import Manifold
from jaxflow.runtime.checks import check_share
from jaxflow.runtime.precision import as_floats
from jaxflow.runtime.shapes import ArrayInput

# Pairs that choose the widths of the kernel.
CHOOSING = 200


def geodesic_mmd(
    manifold: Manifold,
    data: ArrayInput,
    samples: ArrayInput,
    rng: np.random.Generator,
    level: float = 0.01,
    cond: ArrayInput | None = None,
) -> MMD | str:
    """Compare points of a manifold and paired samples by the maximum mean discrepancy.

    The kernel is `exp(-mean_j s_j(x, y) / m_j)` with the distances `s_j` of
    `manifold.separations`: angles on spheres, the shorter way round in each column of a torus,
    absolute differences of ordinary columns; `m_j` is the median distance. It is positive
    definite, and sharp at 0, so it sees differences at all scales (Feragen et al. 2015, arXiv
    1411.0296; Gretton et al. 2012, "A Kernel Two-Sample Test", JMLR 13). The p-value is the share
    of random exchanges of rows with their samples that show as large a discrepancy.

    ```python
    import jax
    import numpy as np
    from jaxflow.bases import UniformOn, WrappedNormal
    from jaxflow.diagnostics.geodesic import geodesic_mmd
    from jaxflow.manifolds import Sphere

    keys = jax.random.split(jax.random.key(0), 200)
    data = jax.vmap(WrappedNormal(Sphere(2), [0.0, 0.0, 1.0], 0.8).sample)(keys)
    samples = jax.vmap(UniformOn(Sphere(2)).sample)(keys)
    print(geodesic_mmd(Sphere(2), data, samples, np.random.default_rng(0)).p)  # 0.0005
    ```

    Args:
        manifold: a `jaxflow.manifolds.Manifold`, where both lie.
        data: points of it, (rows, n).
        samples: as many, each drawn at the row's condition if there is one.
        rng: for the exchanges.
        level: p-values below count as a difference; decides the number of exchanges.
        cond: conditions of the rows, (rows, *condition).

    Returns:
        The squared discrepancy and its p-value, or the reason if there are too few pairs.

    Raises:
        ValueError: the two have other shapes, or lie off the manifold.
    """
    check_share("level", level, 0.01)
    rows, drawn = as_floats(data), as_floats(samples)
    if rows.shape != drawn.shape:
        raise ValueError(
            f"data has shape {rows.shape} and samples {drawn.shape}: draw a sample for each row, "
            "flow.sample(key, len(data))"
        )
    manifold.check(rows)
    manifold.check(drawn)
    num, seen = len(rows), None
    if num < LEAST:
        return too_few(num)
    if cond is not None:
        conditions = flatten(as_floats(cond))
        if len(conditions) != num:
            raise ValueError(f"cond has {len(conditions)} rows, and data have {num}")
        seen = jnp.asarray(np.tile(conditions, (2, 1)), rows.dtype)
    both = jnp.concatenate([rows, drawn])
    # Both rows of some pairs, so that exchanges change no width.
    some = np.concatenate([np.arange(min(num, CHOOSING))] * 2)
    some[len(some) // 2 :] += num
    few = _separations(manifold, both[some], None if seen is None else seen[some])
    medians = jnp.median(few[np.triu_indices(len(some), 1)], axis=0)
    widths = jnp.where(medians > 0, medians, 1.0) * len(medians)
    kernel = np.array(_kernel(manifold, both, seen, widths), np.float64)
    return MMD(num, *exchange_test(kernel, rng, level), level)


@eqx.filter_jit
def _separations(
    manifold: Any, x: Float[Array, "n _"], cond: Float[Array, "n _"] | None
) -> Float[Array, "n n _"]:
    return jax.lax.map(lambda row: _from_one(manifold, row, (x, cond)), (x, cond))


@eqx.filter_jit
def _kernel(
    manifold: Any, x: Float[Array, "n _"], cond: Float[Array, "n _"] | None, widths: Array
) -> Float[Array, "n n"]:
    def row(one: Any) -> Array:
        return jnp.exp(-jnp.sum(_from_one(manifold, one, (x, cond)) / widths[None], axis=1))

    return jax.lax.map(row, (x, cond))


def _from_one(manifold: Any, one: Any, rows: Any) -> Float[Array, "n _"]:
    """Distances from one point, and differences from one condition, to those of all rows."""

    def between(other: Any) -> Array:
        (x, c), (y, d) = one, other
        apart = manifold.separations(x, y)
        return apart if c is None else jnp.concatenate([apart, jnp.abs(c - d)])

    return jax.vmap(between)(rows)
