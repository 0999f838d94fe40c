"""One step of any explicit Runge-Kutta method on any pytree."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, PyTree

from jaxflow.ode.tableaus import ButcherTableau

State = PyTree[Float[Array, "..."]]
# A right side: (s, y) -> (dy/ds, dq/ds). The right side does not depend on the quadrature q, which
# is None unless the adjoint integrates parameter gradients.
RightSide = Callable[[Float[Array, ""], State], tuple[State, State]]


class Step(NamedTuple):
    """State at the end of a step, its part of the quadrature, its error, and the last slope.

    `error` is the estimate of the local error of `y`, None without `with_error`; `last` is the
    right side at the last stage, which a first-same-as-last method reuses.
    """

    y: State
    dq: State
    error: State | None
    last: tuple[State, State]


def rk_step(
    tableau: ButcherTableau,
    g: RightSide,
    s: Float[Array, ""],
    h: Float[Array, ""],
    y: State,
    first: tuple[State, State] | None = None,
    *,
    with_error: bool,
) -> Step:
    """One step from `s` to `s + h`.

    ```
    k_i = g(s + c_i h, y + h sum_j a_ij k_j)
    y1  = y + h sum_i b_i k_i,    error = h sum_i e_i k_i
    ```
    The quadrature does not enter the stages: only its weighted sum is formed. `first` is the
    right side at `(s, y)`, if it is known. Without `with_error` a first-same-as-last method skips
    its last stage.
    """
    num_stages = len(tableau.b) if with_error else tableau.evals_per_step
    k, q = g(s, y) if first is None else first
    ks, qs = [k], [q]
    for row, node in zip(tableau.a[1:num_stages], tableau.c[1:num_stages], strict=True):
        k, q = g(s + node * h, _add(y, h, row, ks))
        ks.append(k)
        qs.append(q)
    # The weight of a skipped stage is 0.
    weights = tableau.b[:num_stages]
    y1 = _add(y, h, weights, ks)
    error = None
    if with_error:
        if tableau.error is None:
            raise ValueError("this method estimates no error")
        error = _weighted(h, tableau.error, ks)
    return Step(y1, _weighted(h, weights, qs), error, (k, q))


def _weighted(h: Array, weights: Sequence[float], ks: Sequence[State]) -> Any:
    """`h sum_i weights_i k_i`, leaf by leaf, without the terms of weight 0."""
    used = [(weight, k) for weight, k in zip(weights, ks, strict=True) if weight != 0.0]
    scalars, trees = zip(*used, strict=True)

    def leaf(*leaves: Array) -> Array:
        total = sum(w * k for w, k in zip(scalars[1:], leaves[1:], strict=True))
        return h.astype(leaves[0].dtype) * (scalars[0] * leaves[0] + total)

    return jax.tree.map(leaf, *trees)


def _add(y: State, h: Array, weights: Sequence[float], ks: Sequence[State]) -> State:
    return jax.tree.map(lambda y, dy: y + dy, y, _weighted(h, weights, ks))
