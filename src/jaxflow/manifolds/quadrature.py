"""Points and weights of integrals over the manifolds of one and two dimensions."""

import math
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float

from jaxflow.manifolds.sphere import Sphere
from jaxflow.manifolds.torus import Torus
from jaxflow.runtime.checks import check_count


def quadrature(
    manifold: Any, num: SupportsIndex = 64
) -> tuple[Float[np.ndarray, "points entries"], Float[np.ndarray, " points"]]:
    """Points and weights with `sum_i w_i f(x_i) = int f` for smooth functions on a manifold.

    Equal steps on circles and tori; on the sphere equal steps of longitude, and heights of Gauss
    and Legendre, which are exact for polynomials of degree `2 num - 1`.

    ```python
    import jax.numpy as jnp
    from jaxflow.manifolds import Sphere, quadrature

    x, weights = quadrature(Sphere(2), 16)
    print(weights.sum())  # 4 pi
    ```

    Args:
        manifold: a `Sphere` or `Torus` of dimension 1 or 2.
        num: steps of latitude, with twice as many of longitude; or steps of each angle.

    Returns:
        Points, (points, n), and weights, (points,).

    Raises:
        ValueError: there is no rule for this manifold.
    """
    num = check_count("num", num)
    if manifold == Sphere(1):
        turn = 2 * math.pi * np.arange(num) / num
        return np.stack([np.cos(turn), np.sin(turn)], axis=1), np.full(num, 2 * math.pi / num)
    if manifold == Sphere(2):
        turn = math.pi * np.arange(2 * num) / num
        height, weight = np.polynomial.legendre.leggauss(num)
        flat = np.sqrt(1 - height**2)
        parts = np.outer(flat, np.cos(turn)), np.outer(flat, np.sin(turn))
        points = np.stack([*parts, np.outer(height, np.ones(2 * num))], axis=-1)
        return points.reshape(-1, 3), np.repeat(weight * math.pi / num, 2 * num)
    if isinstance(manifold, Torus) and manifold.dim <= 2:
        axes = [
            start + period * np.arange(num) / num
            for start, period in zip(manifold.start, manifold.period, strict=True)
        ]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, manifold.dim)
        return points, np.full(len(points), math.exp(manifold.log_volume) / len(points))
    raise ValueError(
        f"manifold={manifold} has no rule: Sphere(1), Sphere(2), Torus(1) and Torus(2) have; "
        "elsewhere average over uniform points, jaxflow.bases.UniformOn(manifold).sample"
    )
