"""Train a flow for a table with columns on a manifold: places, angles, directions."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.kernels import best_width, log_kernel_density
from jaxflow.dynamics import OnManifold
from jaxflow.dynamics.mlp import zero_field
from jaxflow.flows.cnf import CNF
from jaxflow.manifolds import Manifold
from jaxflow.runtime.checks import split
from jaxflow.training.comparison import Comparison
from jaxflow.training.defaults import sine_network
from jaxflow.training.fit import fit
from jaxflow.training.from_simple import (
    LARGE_RIDGE,
    FittedDensity,
    Table,
    simplest_and_best,
    untrained,
)
from jaxflow.training.starts import Fold, Start, before_scaling, choose_start
from jaxflow.transforms import Blocks, Chain, spread_rows
from jaxflow.transforms.choose import forward
from jaxflow.transforms.surface import Surface

# Largest number of kernels.
KERNELS = 20_000


def by_geodesics(table: Table, share: float) -> FittedDensity:
    """Train along geodesics, then by likelihood, from the best simple density; hold out a share.

    The flow starts from the uniform density of the manifold times a Gaussian mixture of the other
    columns. That simple density is the result if it is better on the rows held out.
    """
    surface = table.proposal.surface
    assert surface is not None
    first = Chain(surface.parts) if surface.parts else None
    if table.is_tiny:
        noisy, _ = before_scaling(table.x, first, table.key, [])
        flow = _flow(table, surface, Start(ridge=LARGE_RIDGE), noisy)
        return untrained(_with_field_of_0(flow), len(table.x))
    train, held = split(len(table.x), share, table.seed)
    noisy, folds = before_scaling(table.x, first, table.key, [(train, held)])
    tried = _simple_densities(surface, folds)
    start = next(iter(tried))
    flow = simple = _flow(table, surface, start, noisy[train])
    flow, history = fit(
        flow,
        table.x[train],
        validation=(table.x[held],),
        key=table.key,
        config=table.config,
        progress=table.progress,
        callback=table.callback,
    )
    # A copy of a training row tests nothing.
    groups = table.groups()
    new = ~np.isin(groups[held], groups[train])
    new = new if new.any() else np.ones(len(held), bool)
    noisy_held = spread_rows(first, table.x, table.key)[held]
    log_p = np.asarray(flow.log_prob(noisy_held), np.float64)
    if tried[start][new].mean() > log_p[new].mean():
        flow = _with_field_of_0(simple)
        log_p = np.asarray(flow.log_prob(noisy_held), np.float64)
    if surface.others:
        simple_ones = simplest_and_best(tried)
        others = {f"uniform x {each.name}": tried[each] for each in simple_ones}
    else:
        others = {"uniform density": tried[start]}
    others["kernel density"] = kernel_density(flow, table.x[train], noisy_held, table.key)
    each = {name: log_p[new] for name, log_p in {"flow": log_p, **others}.items()}
    return FittedDensity(flow, history, Comparison.of(each))


def _flow(table: Table, surface: Surface, start: Start, noisy: Array) -> CNF:
    """An untrained flow: uniform on the manifold, times the simple density of other columns."""
    scaling = base = None
    if surface.others:
        scaling, base = start.fit(None, noisy[:, np.asarray(surface.others)])
    manifold = surface.manifold
    sizes: dict[str, Any] = {"width": table.width, "depth": table.depth}
    network = sine_network(manifold.ambient, **sizes, intrinsic=manifold.dim, key=table.key)
    field = OnManifold(network, manifold)
    return CNF(field, surface.base(base), transform=surface.transform(scaling))


def _with_field_of_0(flow: CNF) -> CNF:
    """The flow before training: its base."""
    return eqx.tree_at(lambda flow: flow.field.field, flow, replace_fn=zero_field)


def _simple_densities(surface: Surface, folds: list[Fold]) -> dict[Start, Float[np.ndarray, " n"]]:
    """Log-densities of the held-out rows by the simple densities, in nats and data units.

    Each is uniform on the manifold times a simple density of the other columns, the best first.
    """
    charts, columns = Blocks(surface.charts), np.asarray(surface.columns)
    area = [np.asarray(forward(charts, fold.held[:, columns])[1], np.float64) for fold in folds]
    uniform = np.concatenate(area) - surface.curved.log_volume
    if not surface.others:
        return {Start(): uniform + np.concatenate([fold.log_det for fold in folds])}
    columns = np.asarray(surface.others)
    plain = [Fold(fold.train[:, columns], fold.held[:, columns], fold.log_det) for fold in folds]
    return {start: uniform + log_p for start, log_p in choose_start(plain).items()}


def kernel_density(flow: CNF, x: Array, held: Array, key: PRNGKeyArray) -> Float[np.ndarray, " m"]:
    """Log-densities of held-out rows by kernels around the others: wrapped normals of one width.

    A part of the rows chooses the width. Manifold and transform are those of the flow.
    """
    manifold: Manifold = flow.field.manifold  # type: ignore[attr-defined]
    u, _ = forward(flow.transform, spread_rows(flow.transform, x, key))
    v, log_det = forward(flow.transform, held)
    u = u[jax.random.permutation(key, len(u))[:KERNELS]]
    log_p = log_kernel_density(manifold, u, v, best_width(manifold, u))
    return np.asarray(log_p + log_det, np.float64)
