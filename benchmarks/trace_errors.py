"""What stochastic traces cost in nats: errors on trained flows, and training in equal time."""

import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import sem

import jaxflow
from harness import interleaved
from jaxflow.data import EightGaussians, breast_cancer, digits
from jaxflow.dynamics import MLP
from jaxflow.trace import Hutchinson, HutchPlusPlus, XTrace
from jaxflow.transforms import Standardise
from trace_costs import Brute

TABLES = ("8 gaussians", "breast cancer", "digits")
SCORING = jaxflow.ODE(solver="rk4", num_steps=8)


def rows_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, float32."""
    if name == "8 gaussians":
        return EightGaussians().sample(20_000, 0), EightGaussians().sample(2_000, 1)
    x = (breast_cancer() if name == "breast cancer" else digits(0)).values.astype(np.float32)
    x = x[np.random.default_rng(0).permutation(len(x))]
    held = len(x) // 5
    return x[held:], x[:held]


def train(name: str, trace: Any, seconds: float, *, brute: bool = False) -> tuple[Any, Any]:
    """A flow trained for some seconds, compiling included, and its history."""
    train_rows, held = rows_of(name)
    key = jax.random.key(0)
    field: Any = MLP(train_rows.shape[1], width=64, depth=2, key=key)
    flow = jaxflow.CNF(
        Brute(field) if brute else field, jaxflow.StandardNormal((train_rows.shape[1],))
    )
    config = jaxflow.TrainConfig(
        steps=100_000,
        batch_size=256,
        learning_rate=3e-3,
        weight_decay=1e-3,
        eval_every=50,
        max_seconds=seconds,
        patience=10_000,
        validation_rows=200,
    )
    flow = replace(flow, trace=trace)
    return jaxflow.fit(
        flow,
        train_rows,
        validation=held,
        key=key,
        config=config,
        transform=Standardise.fit(train_rows),
        progress=False,
    )


def equal_time(name: str, seconds: float) -> dict[str, dict[str, float]]:
    """Held-out exact log-density, in nats a row, after equal time with each trace."""
    _, held = rows_of(name)
    methods: dict[str, Any] = {
        "closed form": ("auto", False),
        "Rademacher, k=1": (Hutchinson(1), False),
        "Gaussian, k=1": (Hutchinson(1, "gaussian"), False),
        "Rademacher, k=4": (Hutchinson(4), False),
        "orthogonal, k=2": (Hutchinson(2, "orthogonal"), False),
        "brute, d products": ("exact", True),
    }
    results = {}
    for method, (trace, brute) in methods.items():
        start = time.perf_counter()
        flow, history = train(name, trace, seconds, brute=brute)
        spent = time.perf_counter() - start
        exact = replace(flow, trace="exact", field=getattr(flow.field, "field", flow.field))
        log_p = np.asarray(exact.log_prob(held), float)
        results[method] = {
            "log_p": float(log_p.mean()),
            "se": float(sem(log_p)),
            "steps": float(history["step"][-1]),
            "seconds": spent,
        }
    return results


def frontier(name: str, seconds: float, keys: int, numbers: tuple[int, ...]) -> dict[str, Any]:
    """Standard deviation of log p against cost, for each stochastic trace on a trained flow."""
    flow, _ = train(name, "auto", seconds)
    flow = replace(flow, ode_eval=SCORING, ode=SCORING)
    train_rows, held = rows_of(name)
    x = jnp.asarray(held[:200])
    dim = x.shape[1]
    exact = flow.log_prob(x)
    jacobians = flow.integrated_jacobian(jnp.asarray(train_rows[:64]))
    points = {}
    for method, products, trace in traces(dim, jacobians, numbers):
        stochastic = replace(flow, trace=trace)
        off, said = [], []
        for key in jax.random.split(jax.random.key(1), keys):
            value, error, *_ = stochastic.log_prob_with_error(x, key=key)
            off.append(value - exact)
            said.append(jnp.zeros(()) if error is None else jnp.mean(error**2))
        points.setdefault(method, []).append(
            {
                "products": products,
                "us_per_row": 1e6 * timed(stochastic, x) / len(x),
                "sd": float(jnp.sqrt(jnp.mean(jnp.stack(off) ** 2))),
                "said": float(jnp.sqrt(jnp.mean(jnp.stack(said)))),
            }
        )
    return {
        "dim": dim,
        "exact_us_per_row": 1e6 * timed(flow, x) / len(x),
        "brute_us_per_row": 1e6 * timed(replace(flow, field=Brute(flow.field)), x) / len(x),
        "exact_mean": float(jnp.mean(exact)),
        "spectrum": spectrum(jacobians),
        "points": points,
    }


def timed(flow: Any, x: jax.Array, repeats: int = 5) -> float:
    """Median seconds of scoring the rows."""
    key = jax.random.key(2)
    return interleaved({"": lambda: flow.log_prob(x, key=key)}, repeats)[""]


def traces(dim: int, jacobians: jax.Array, numbers: tuple[int, ...]) -> list[tuple[str, int, Any]]:
    """Every stochastic trace with these numbers of Jacobian-vector products an evaluation."""
    found: list[tuple[str, int, Any]] = []
    sketch = HutchPlusPlus.from_jacobians
    for m in numbers:
        if m > dim:
            continue
        found += [
            ("Rademacher", m, Hutchinson(m)),
            ("Gaussian", m, Hutchinson(m, "gaussian")),
            ("orthogonal", m, Hutchinson(m, "orthogonal")),
        ]
        if m > 1:
            found.append(
                ("Hutch++, subspace", m, sketch(jacobians, num_products=m, reference=False))
            )
        found.append(("Hutch++, subspace and reference", m, sketch(jacobians, num_products=m)))
        if m >= 4:
            found.append(("XTrace", m, XTrace(m // 2)))
    return found


def spectrum(jacobians: jax.Array) -> dict[str, float]:
    """Where the variance of one Rademacher probe lies: the reason for what helps."""
    s = jacobians + jnp.swapaxes(jacobians, 1, 2)
    mean = jnp.mean(s, axis=0)

    def off_diagonal(s: jax.Array) -> jax.Array:
        return jnp.mean(jnp.sum(jnp.triu(s, 1) ** 2, axis=(1, 2)))

    total = off_diagonal(s)
    values = jnp.linalg.eigvalsh(jnp.einsum("nij,njk->ik", s, s))[::-1]
    quarter = max(1, len(values) // 4)
    return {
        "variance_of_one_probe": float(total),
        "share_left_by_the_mean": float(off_diagonal(s - mean[None]) / total),
        "energy_in_leading_quarter": float(jnp.sum(values[:quarter]) / jnp.sum(values)),
    }
