"""`fit_posterior` and `fit_likelihood`: conditional flows of simulations, with the defaults."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.dynamics import (
    EncodedCondition,
    LocationScale,
    ObservationEncoder,
    RobustScaling,
    SetEncoder,
)
from jaxflow.flows import CNF, Ensemble
from jaxflow.inference.framed import FramedMatching
from jaxflow.inference.likelihood import Likelihood
from jaxflow.inference.posterior import Posterior
from jaxflow.inference.priors import Prior, as_prior
from jaxflow.inference.settings import Settings
from jaxflow.objectives import Stage, Staged, maximum_likelihood
from jaxflow.runtime.checks import check_rows, constant_columns, finite_rows
from jaxflow.training import History, fit
from jaxflow.training.defaults import sine_network
from jaxflow.training.rows import checked_weights
from jaxflow.transforms import Bounded, Chain, Whiten, propose

# Fewest simulations that are left to fit.
FEWEST = 20
# Least spread that a line leaves over, as a share of the parameter's own.
LEAST = 1e-4
# Matching, then likelihood: shares of the steps, chosen by `make bench-sbi`.
OBJECTIVE = Staged(
    (
        Stage(FramedMatching(), 0.9, ema=0.998),
        Stage(maximum_likelihood, 0.1, rate=0.4),
    )
)


def fit_posterior(
    theta: Any,
    x: Any,
    *,
    key: PRNGKeyArray,
    prior: Any = None,
    weights: Any = None,
    embed: Any = None,
    names: Sequence[str] | None = None,
    **settings: Any,
) -> Posterior:
    """Fit the posterior `p(theta | x)` to simulations, for all observations at once.

    Parameters with limits are mapped to the line by the prior's limits, so that no mass lies
    outside; positive and skewed entries of an observation enter as logarithms (`RobustScaling`).
    A `CNF` is trained by flow matching, then by maximum likelihood, and stops where simulations
    that are held out become less likely (neural posterior estimation: Papamakarios and Murray
    2016, arXiv 1605.06376; by flow matching: Wildberger et al. 2023, arXiv 2305.17161).

    Simulations with NaN or infinity in `x` are left out and counted. For an observation without
    NaN that does not bias the posterior: whether a simulation failed can be seen from `x`, which
    is given.

    ```python
    import jax
    import numpy as np
    from jaxflow.inference import fit_posterior

    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (300, 2))
    x = theta + 0.1 * rng.normal(size=(300, 2))
    key = jax.random.key(0)
    posterior = fit_posterior(theta, x, prior=(-1.0, 1.0), key=key, steps=50)
    draws = posterior.sample(key, 100, [0.3, -0.2])
    ```

    Args:
        theta: parameters drawn from the prior, (n, d), in any units.
        x: one simulation for each, (n, *observation), in any units.
        key: for the split, the weights and the minibatches.
        prior: `(low, high)` of a uniform prior, a distribution of NumPyro with event shape (d,),
            a frozen one of scipy or a list of them; None if there are only samples, whose limits
            are then guessed (`jaxflow.transforms.propose`).
        weights: how often each simulation counts, (n,), not negative. For parameters that were
            drawn from another density than the prior: `prior / that density`, up to a constant.
            None for once each.
        embed: encoder of one observation, trained with the flow: a `SetEncoder`, a
            `SeriesEncoder`, or a module of your own with `shape` and `features`; None for the
            entries themselves.
        names: names of the parameters.
        **settings: the attributes of `Settings`, such as `steps=2000` or `members=3`.

    Returns:
        The posterior.

    Raises:
        ValueError: shapes that do not fit, NaN in `theta`, parameters outside the prior, constant
            columns (named), too few simulations, or a setting out of range.
        TrainingError: no validation value was finite.
    """
    theta, x, valid = _pairs(theta, x)
    if weights is not None:
        weights = checked_weights(weights, len(valid), "weights")[valid]
    found = as_prior(prior, theta.shape[1])
    outside = np.flatnonzero(~found.in_box(theta))
    if outside.size:
        raise ValueError(
            f"theta lies outside the prior in {outside.size} rows, first row {outside[0]} "
            f"{theta[outside[0]].tolist()}: give the prior that theta was drawn from"
        )
    if names is not None and len(names) != theta.shape[1]:
        raise ValueError(
            f"names={list(names)} are not one for each of {theta.shape[1]} parameters"
        )
    parts = propose(theta).parts if prior is None else _limits(found)
    flow, history = _fit(key, theta, x, embed, parts, Settings(**settings), weights)
    named = None if names is None else tuple(names)
    counts = np.ones(len(theta)) if weights is None else weights
    effective = float(counts.sum() ** 2 / (counts**2).sum())
    return Posterior(flow, found, named, int((~valid).sum()), history, effective)


def fit_likelihood(
    x: Any,
    theta: Any,
    *,
    key: PRNGKeyArray,
    **settings: Any,
) -> Likelihood:
    """Fit the likelihood `p(x | theta)` to simulations: an emulator with a density.

    Parameters may be drawn from any density that covers the prior. Columns of `x` that are on a
    grid or have limits are treated as `jaxflow.transforms.propose` finds them.

    Args:
        x: simulations, (n, k), in any units.
        theta: the parameters of each, (n, d).
        key: for the split, the weights and the minibatches.
        **settings: the attributes of `Settings`.

    Returns:
        The likelihood (neural likelihood estimation: Papamakarios, Sterratt and Murray 2019,
        arXiv 1805.07226).

    Raises:
        ValueError, TrainingError: as `fit_posterior`.
    """
    theta, x, valid = _pairs(theta, x)
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; fit_likelihood takes vectors (n, k)")
    flow, history = _fit(key, x, theta, None, propose(x).parts, Settings(**settings))
    return Likelihood(flow, int((~valid).sum()), history)


def _pairs(theta: Any, x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked parameters and simulations, without failed ones, and which have not failed."""
    theta, x = np.asarray(theta, np.float64), np.asarray(x, np.float64)
    if theta.ndim != 2 or x.ndim < 2 or len(theta) != len(x):
        raise ValueError(
            f"theta has shape {theta.shape} and x has shape {x.shape}; give rows (n, d) and (n, "
            "*observation): for one number a row write x[:, None]"
        )
    check_rows(theta, "theta")
    failed = np.asarray(np.isnan(x).all(axis=0))
    if failed.any():
        raise ValueError(f"x is NaN in all simulations in {_entries(failed)}: leave it out")
    valid = finite_rows(x)
    if valid.sum() < FEWEST:
        raise ValueError(
            f"{valid.sum()} of {len(x)} simulations are without NaN; at least {FEWEST} are needed"
        )
    theta, x = theta[valid], x[valid]
    for name, rows in (("theta", theta), ("x", x)):
        constant = constant_columns(rows, float(np.finfo(np.float32).eps))
        if constant.any():
            raise ValueError(f"{name} is constant in {_entries(constant)}: leave it out")
    return theta, x, valid


def _entries(mask: np.ndarray) -> str:
    places = np.argwhere(mask)
    names = [str(p[0]) if len(p) == 1 else str(tuple(p.tolist())) for p in places[:10]]
    return f"column{'' if len(places) == 1 else 's'} {', '.join(names)}"


def _limits(prior: Prior) -> tuple[Any, ...]:
    """The transform onto the line, for a prior with limits."""
    if not np.isfinite([prior.lower, prior.upper]).any():
        return ()
    return (Bounded(jnp.asarray(prior.lower, float), jnp.asarray(prior.upper, float)),)


def _fit(
    key: PRNGKeyArray,
    target: np.ndarray,
    cond: np.ndarray,
    embed: Any,
    parts: tuple[Any, ...],
    settings: Settings,
    weights: np.ndarray | None = None,
) -> tuple[Any, History]:
    """Train a flow of a target given conditions, or several, and the first one's history."""
    dim, shape = target.shape[1], cond.shape[1:]
    if embed is not None and tuple(getattr(embed, "shape", ())) != shape:
        raise ValueError(
            f"embed is for observations of shape {getattr(embed, 'shape', None)}, and those of x "
            f"have {shape}"
        )
    rows, cond_rows = jnp.asarray(target, float), jnp.asarray(cond, float)
    scaling = RobustScaling.fit(cond, rows=2 if isinstance(embed, SetEncoder) else 1)
    features = None if embed is not None else jax.vmap(scaling)(cond_rows).reshape(len(rows), -1)
    whiten, line = _linear(_flow_space(parts, rows), features)
    transform = Chain((*parts, whiten))
    flows, histories = [], []
    for own in jax.random.split(key, settings.members):
        field_key, encoder_key, fit_key = jax.random.split(own, 3)
        encoder = ObservationEncoder(dim, scaling, shape, embed, line=line, key=encoder_key)
        field = sine_network(
            dim,
            width=settings.width,
            depth=settings.depth,
            cond_dim=encoder.num_outputs,
            key=field_key,
        )
        flow, history = fit(
            CNF(EncodedCondition(LocationScale(field), encoder), StandardNormal(dim)),
            rows,
            cond_rows,
            key=fit_key,
            weights=weights,
            validation=settings.validation,
            transform=transform,
            config=settings.config,
            objective=OBJECTIVE,
            progress=settings.progress,
        )
        flows.append(flow)
        histories.append(history)
    return (flows[0] if len(flows) == 1 else Ensemble(flows)), histories[0]


def _flow_space(parts: tuple[Any, ...], rows: Array) -> Array:
    for part in parts:
        rows = jax.vmap(part.forward)(rows)[0]
    return rows


def _linear(u: Array, features: Array | None) -> tuple[Whiten, Any]:
    """Least squares of rows on features, in the units in which its residuals are white.

    The transform into these units, and matrix and constant of the line; None without features.
    """
    y = np.asarray(u, np.float64)
    mean = y.mean(axis=0)
    residuals, slope, centre = y - mean, None, None
    if features is not None:
        c = np.asarray(features, np.float64)
        centre = c.mean(axis=0)
        slope = np.linalg.solve(
            (c - centre).T @ (c - centre) + np.eye(c.shape[1]), (c - centre).T @ residuals
        )
        residuals = residuals - (c - centre) @ slope
    spread = y.std(axis=0)
    floor = LEAST**2 * np.diag(spread**2)
    factor = np.linalg.cholesky(residuals.T @ residuals / len(y) + floor)
    whiten = Whiten(jnp.asarray(mean, u.dtype), jnp.asarray(factor, u.dtype))
    if slope is None or centre is None:
        return whiten, None
    slope = np.linalg.solve(factor, slope.T).T
    parts = slope, -centre @ slope
    return whiten, tuple(jnp.asarray(each, u.dtype) for each in parts)
