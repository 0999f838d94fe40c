"""`fit_posterior` and `fit_likelihood`: conditional flows of simulations, with the defaults."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.flows import Ensemble
from jaxflow.inference.likelihood import Likelihood
from jaxflow.inference.posterior import Posterior
from jaxflow.inference.priors import Prior, as_prior
from jaxflow.inference.settings import Settings
from jaxflow.runtime.arguments import warn_if_coarse
from jaxflow.runtime.checks import check_rows, constant_columns, finite_rows
from jaxflow.runtime.text import listed
from jaxflow.training import History
from jaxflow.training.from_encoder import fit_encoded
from jaxflow.training.rows import checked_weights
from jaxflow.transforms import Bounded, propose

# Fewest simulations that are left to fit.
FEWEST = 20


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

    Simulations with NaN or infinity in `x` are left out and counted. That does not bias the
    posterior of an observation without NaN: whether a simulation failed is a function of `x`.

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
    no_prior, prior = prior is None, as_prior(prior, theta.shape[1])
    outside = np.flatnonzero(~prior.in_box(theta))
    if outside.size:
        raise ValueError(
            f"theta lies outside the prior in {outside.size} rows, first row {outside[0]} "
            f"{theta[outside[0]].tolist()}: give the prior that theta was drawn from"
        )
    if names is not None and len(names) != theta.shape[1]:
        raise ValueError(
            f"names={list(names)} are not one for each of {theta.shape[1]} parameters"
        )
    parts = propose(theta).parts if no_prior else _limits(prior)
    flow, history = _fit(key, theta, x, embed, parts, Settings(**settings), weights)
    named = None if names is None else tuple(names)
    counts = np.ones(len(theta)) if weights is None else weights
    effective = float(counts.sum() ** 2 / (counts**2).sum())
    return Posterior(flow, prior, named, int((~valid).sum()), history, effective)


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
        constant = constant_columns(rows, float(jnp.finfo(jnp.result_type(float)).eps))
        if constant.any():
            offset = (rows.max(axis=0) > rows.min(axis=0))[constant].all()
            advice = f"float32 hardly tells them apart: write {name} - {name}.mean(axis=0)"
            raise ValueError(
                f"{name} is constant in {_entries(constant)}"
                f"{' to rounding; ' + advice if offset else ': leave it out'}"
            )
        if jnp.result_type(float) == jnp.float32:
            warn_if_coarse(rows, name, stacklevel=4)
    return theta, x, valid


def _entries(mask: np.ndarray) -> str:
    places = np.argwhere(mask)
    names = [str(p[0]) if len(p) == 1 else str(tuple(p.tolist())) for p in places]
    return f"column{'' if len(places) == 1 else 's'} {listed(names)}"


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
    shape = cond.shape[1:]
    if embed is not None and tuple(getattr(embed, "shape", ())) != shape:
        raise ValueError(
            f"embed is for observations of shape {getattr(embed, 'shape', None)}, and those of x "
            f"have {shape}"
        )
    fits = [
        fit_encoded(
            target,
            cond,
            key=own,
            weights=weights,
            validation=settings.validation,
            parts=parts,
            embed=embed,
            width=settings.width,
            depth=settings.depth,
            config=settings.config(len(target)),
            progress=settings.progress,
        )
        for own in jax.random.split(key, settings.members)
    ]
    flows, histories = zip(*fits, strict=True)
    return (flows[0] if len(flows) == 1 else Ensemble(flows)), histories[0]
