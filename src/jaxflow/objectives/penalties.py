"""What a field costs on its way: integrals along trajectories that training may keep small.

A penalty is a rate `r(t, x)`, integrated from `t = 0` to 1 beside `(x, log p)`:

```
kinetic    |f|^2                         straight, slow trajectories take few steps
jacobian   |df/dx|_F^2                   E |J v|^2 by a probe v, the one of the trace where it has
taylor     |d^K x / dt^K|^2              K = 2, 3: what a solver of that order has to follow
hjb        |dPhi/dt - |grad Phi|^2 / 2|  0 along an optimal transport; for potential fields
```
Finlay et al. 2020, "How to train your neural ODE: the world of Jacobian and kinetic
regularization", arXiv 2002.02798; Kelly et al. 2020, "Learning differential equations that are
easy to solve", arXiv 2007.04504; Onken et al. 2021, "OT-Flow", arXiv 2006.00104.

They are integrated in training only, and never change a log-density.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.divergence import Change, draw_rows, plan
from jaxflow.dynamics.protocol import evaluate
from jaxflow.ode import ODE, odeint_together
from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.trace import Estimator, Exact, Hutchinson, XTrace, exact_trace, prepare
from jaxflow.trace.products import inner, products

Penalty = Literal["kinetic", "jacobian", "taylor2", "taylor3", "hjb"]
PENALTIES: tuple[Penalty, ...] = get_args(Penalty)


def penalised_change(
    trace: Exact | Estimator | XTrace,
    field: Any,
    x: Float[Array, "batch *event"],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
    penalties: tuple[Penalty, ...],
) -> tuple[Change, dict[Penalty, Float[Array, " batch"]]]:
    """`density_change` of one joint solve, with the penalties' integrals over its way.

    Args:
        trace: exact, or by Hutchinson's probes.
        field: the field.
        x: points at `t0`.
        t0: time they start at.
        t1: time they end at; the integrals are positive in either direction.
        cond: conditions.
        key: for probes: of the trace, and of `"jacobian"` where the trace has none.
        ode: settings of the solve.
        penalties: which ones.

    Raises:
        ValueError: a penalty that the field cannot have, or another trace.
    """
    if not isinstance(trace, Exact | Hutchinson):
        raise ValueError(
            f"trace={trace} has vectors that are no probes for a penalty: train with "
            "trace='exact' or trace='hutchinson'"
        )
    if "hjb" in penalties and not hasattr(field, "potential"):
        raise ValueError(
            f"hjb needs a field with a potential and field={type(field).__name__} has none: use "
            "jaxflow.dynamics.Potential, or another penalty"
        )
    start, probes, rule = plan(trace, key, x, t0, t1)
    noise = None
    if "jacobian" in penalties and probes is None:
        noise = draw_rows(Hutchinson(1), key, x)
    prepared = field if probes is not None else prepare(field)
    dtype = accumulation_dtype(x.dtype)
    spent = {name: jnp.zeros(len(x), dtype) for name in penalties}

    def one(t: Array, state: Any, fields: Any, row: Any) -> Any:
        return _rates(t, state, *fields, *row)

    state, rows = (x, start, spent), (cond, probes, noise)
    solved = odeint_together(one, state, t0, t1, (prepared, field), rows, ode=ode)
    (end, change, spent), stats = solved
    sign = jnp.sign(jnp.asarray(t1, dtype) - jnp.asarray(t0, dtype))
    return (end, *rule(change), stats), {name: sign * each for name, each in spent.items()}


def _rates(
    t: Array, state: Any, prepared: Any, field: Any, cond: Any, probes: Any, noise: Any
) -> Any:
    """Derivatives of a point, its log-density, and each penalty's integral."""
    x, log_p, spent = state
    jv: Any
    if probes is not None:
        f, jv = products(field, t, x, probes, cond)
        trace = inner(probes, jv)
    else:
        f, trace = exact_trace(prepared, t, x, cond)
        jv = None if noise is None else products(field, t, x, noise, cond)[1]
    rates: dict[str, Callable[[], Array]] = {
        "kinetic": lambda: _square(f),
        "jacobian": lambda: jnp.mean(inner(jv, jv)),
        "taylor2": lambda: _square(_derivative(field, 2, t, x, cond)),
        "taylor3": lambda: _square(_derivative(field, 3, t, x, cond)),
        "hjb": lambda: _hjb(field, t, x, f, cond),
    }
    return f, -trace.astype(log_p.dtype), {n: rates[n]().astype(s.dtype) for n, s in spent.items()}


def _square(f: Array) -> Array:
    return inner(f[None], f[None])[0]


def _derivative(field: Any, order: int, t: Array, x: Array, cond: Any) -> Array:
    """`d^order x / dt^order` along the trajectory through `x`, by nested products."""
    along = partial(evaluate, field, cond=cond)
    for _ in range(order - 1):
        along = partial(_total, partial(evaluate, field, cond=cond), along)
    return along(t, x)


def _total(f: Callable[..., Array], g: Callable[..., Array], t: Array, x: Array) -> Array:
    """`dg/dt + dg/dx f`."""
    return jax.jvp(g, (t, x), (jnp.ones_like(t), f(t, x)))[1]


def _hjb(field: Any, t: Array, x: Array, f: Array, cond: Any) -> Array:
    """`|dPhi/dt - |grad Phi|^2 / 2|`."""
    slope = jax.grad(lambda t: field.potential(t, x, cond))(t)
    return jnp.abs(slope.astype(accumulation_dtype(x.dtype)) - _square(f) / 2)
