"""Points and weights of integrals over spheres, tori, rotations and their products."""

import math
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float

from jaxflow.manifolds.product import Product
from jaxflow.manifolds.projective import Projective
from jaxflow.manifolds.sphere import Sphere
from jaxflow.manifolds.torus import Torus
from jaxflow.runtime.checks import check_count

Rule = tuple[Float[np.ndarray, "points entries"], Float[np.ndarray, " points"]]
# Largest dimension of a factor: the number of points is a power of it.
LARGEST = 3


def quadrature(manifold: Any, num: SupportsIndex = 64) -> Rule:
    """Points and weights with `sum_i w_i f(x_i) = int f` for smooth functions on a manifold.

    Equal steps on circles and tori. On the sphere equal steps of longitude, and heights of Gauss
    and Legendre, which are exact for polynomials of degree `2 num - 1`; on that of three
    dimensions heights of Gauss and Chebyshev, with a sphere at each. Axes and rotations have the
    points of one half of the sphere; products have all pairs of points.

    ```python
    import jax.numpy as jnp
    from jaxflow.manifolds import Sphere, quadrature

    x, weights = quadrature(Sphere(2), 16)
    print(weights.sum())  # 4 pi
    ```

    Args:
        manifold: a `Sphere`, `Torus` or `Projective` of up to three dimensions, or a `Product` of
            such.
        num: steps of latitude, with twice as many of longitude; or steps of each angle.

    Returns:
        Points, (points, n), and weights, (points,).

    Raises:
        ValueError: there is no rule for this manifold.
    """
    num = check_count("num", num)
    if isinstance(manifold, Product):
        return _all_pairs([quadrature(factor, num) for factor in manifold.factors])
    if isinstance(manifold, Sphere | Projective | Torus) and manifold.dim <= LARGEST:
        if isinstance(manifold, Torus):
            return _on_torus(manifold, num)
        up_to_sign = isinstance(manifold, Projective)
        turns = num if manifold.dim == 1 and not up_to_sign else 2 * num
        return _on_sphere(manifold.dim, num, turns, half=up_to_sign)
    raise ValueError(
        f"manifold={manifold} has no rule: Sphere, Torus and Projective of up to {LARGEST} "
        "dimensions and their products have; elsewhere average over uniform points, "
        "jaxflow.bases.UniformOn(manifold).sample"
    )


def _on_sphere(dim: int, num: int, turns: int, *, half: bool) -> Rule:
    """A rule on the sphere, or on its points with a longitude below pi."""
    if dim == 1:
        turn = 2 * math.pi * np.arange(turns // 2 if half else turns) / turns
        points = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        return points, np.full(len(points), 2 * math.pi / turns)
    below, weights = _on_sphere(dim - 1, num, turns, half=half)
    if dim == 2:
        heights, steps = np.polynomial.legendre.leggauss(num)
    else:
        angles = math.pi * np.arange(1, num + 1) / (num + 1)
        heights, steps = np.cos(angles), math.pi / (num + 1) * np.sin(angles) ** 2
    flat = np.sqrt(1 - heights**2)[:, None, None] * below
    tops = np.broadcast_to(heights[:, None, None], (num, len(below), 1))
    points = np.concatenate([flat, tops], axis=2).reshape(-1, dim + 1)
    return points, np.outer(steps, weights).ravel()


def _on_torus(torus: Torus, num: int) -> Rule:
    axes = [
        start + period * np.arange(num) / num
        for start, period in zip(torus.start, torus.period, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, torus.dim)
    return points, np.full(len(points), math.exp(torus.log_volume) / len(points))


def _all_pairs(rules: list[tuple[np.ndarray, np.ndarray]]) -> Rule:
    points, weights = rules[0]
    for more, others in rules[1:]:
        points = np.hstack([np.repeat(points, len(more), axis=0), np.tile(more, (len(points), 1))])
        weights = np.outer(weights, others).ravel()
    return points, weights
