"""Penalties on a field: integrals along its trajectories that training can keep small.

Each penalty is a rate `r(t, x)`, integrated over time together with `(x, log p)`:

```
kinetic    |f|^2                         straight, slow trajectories need few steps
jacobian   |df/dx|_F^2                   estimated as E |J v|^2, by the probes of the trace if any
taylor     |d^K x / dt^K|^2              K = 2, 3: smooth trajectories allow long steps
hjb        |dPhi/dt - |grad Phi|^2 / 2|  0 along an optimal transport; for potential fields
```
Finlay et al. 2020, "How to train your neural ODE: the world of Jacobian and kinetic
regularization", arXiv 2002.02798; Kelly et al. 2020, "Learning differential equations that are
easy to solve", arXiv 2007.04504; Onken et al. 2021, "OT-Flow", arXiv 2006.00104.

Penalties are integrated in training only and never change a log-density.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.probes import Change, as_integrals, draw_probes
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
    """Compute `density_change` and the integrals of penalties in one joint solve.

    Arguments as for `density_change`, with a trace `Exact` or `Hutchinson`; the key also draws the
    probe of `"jacobian"` if the trace is exact. The integrals, by name, are positive in either
    direction of time. Raises ValueError for another trace, or a field without a potential for
    `"hjb"`.
    """
    if not isinstance(trace, Exact | Hutchinson):
        raise ValueError(
            f"trace={trace} has vectors that cannot serve as probes of a penalty: train with "
            "trace='exact' or trace='hutchinson'"
        )
    if "hjb" in penalties and not hasattr(field, "potential"):
        raise ValueError(
            f"hjb needs a field with a potential and field={type(field).__name__} has none: use "
            "jaxflow.dynamics.Potential, or another penalty"
        )
    start, probes, read = as_integrals(trace, key, x, t0, t1, grouped=False)
    jacobian_probes = None
    if "jacobian" in penalties and probes is None:
        jacobian_probes = draw_probes(Hutchinson(1), key, x, grouped=False)
    prepared = field if probes is not None else prepare(field)
    dtype = accumulation_dtype(x.dtype)
    zeros = {name: jnp.zeros(len(x), dtype) for name in penalties}

    state, rows = (x, start, zeros), (cond, probes, jacobian_probes)
    solved = odeint_together(_rates, state, t0, t1, (prepared, field), rows, ode=ode)
    (end, change, integrals), stats = solved
    sign = jnp.sign(jnp.asarray(t1, dtype) - jnp.asarray(t0, dtype))
    return (end, *read(change), stats), {name: sign * each for name, each in integrals.items()}


def _rates(t: Array, state: Any, fields: Any, row: Any) -> Any:
    """Time derivatives of a point, its log-density, and the integral of each penalty."""
    x, log_p, integrals = state
    prepared, field = fields
    cond, probes, jacobian_probes = row
    jv: Any
    if probes is not None:
        f, jv = products(field, t, x, probes, cond)
        trace = inner(probes, jv)
    else:
        f, trace = exact_trace(prepared, t, x, cond)
        jv = None
        if jacobian_probes is not None:
            jv = products(field, t, x, jacobian_probes, cond)[1]
    rates: dict[str, Callable[[], Array]] = {
        "kinetic": lambda: _squared_norm(f),
        "jacobian": lambda: jnp.mean(inner(jv, jv)),
        "taylor2": lambda: _squared_norm(_derivative(field, 2, t, x, cond)),
        "taylor3": lambda: _squared_norm(_derivative(field, 3, t, x, cond)),
        "hjb": lambda: _hjb(field, t, x, f, cond),
    }
    penalties = {name: rates[name]().astype(each.dtype) for name, each in integrals.items()}
    return f, -trace.astype(log_p.dtype), penalties


def _squared_norm(f: Array) -> Array:
    return inner(f[None], f[None])[0]


def _derivative(field: Any, order: int, t: Array, x: Array, cond: Any) -> Array:
    """`d^order x / dt^order` along the trajectory through `x`, by nested products."""
    velocity = partial(evaluate, field, cond=cond)
    derivative = velocity
    for _ in range(order - 1):
        derivative = partial(_total_derivative, velocity, derivative)
    return derivative(t, x)


def _total_derivative(
    f: Callable[..., Array], g: Callable[..., Array], t: Array, x: Array
) -> Array:
    """`dg/dt + dg/dx f`."""
    return jax.jvp(g, (t, x), (jnp.ones_like(t), f(t, x)))[1]


def _hjb(field: Any, t: Array, x: Array, f: Array, cond: Any) -> Array:
    """`|dPhi/dt - |grad Phi|^2 / 2|`, where `f = -grad Phi`."""
    slope = jax.grad(lambda t: field.potential(t, x, cond))(t)
    return jnp.abs(slope.astype(accumulation_dtype(x.dtype)) - _squared_norm(f) / 2)
