"""Turn a user's arrays into checked rows in flow space, one problem for each transform."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.data.shards import Shards
from jaxflow.dynamics import ConditionScaling, ObservationEncoder, StandardisedCondition
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.flows.data_space import to_flow_space, with_transform
from jaxflow.flows.flow import Flow
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.runtime.checks import check_choice, check_columns, split
from jaxflow.runtime.dependence import check_independent
from jaxflow.runtime.keys import host_seed, seed_words
from jaxflow.runtime.precision import widest_dtype
from jaxflow.training.augment import Augment, BatchTransform
from jaxflow.training.config import TrainConfig
from jaxflow.training.rows import Dataset, data_rows, repeat_rows
from jaxflow.training.stream import Stream, split_shards
from jaxflow.training.trainable import trainable, trains
from jaxflow.transforms import Chain, Proposal, candidate_transforms, noise_of, spread_rows
from jaxflow.transforms.dequantise import spread_with_log_prob
from jaxflow.transforms.protocol import check_strict
from jaxflow.transforms.samples import column_label

# Names of transforms that are not fitted here; checkpoints have them.
NOT_FITTED = "as given", "the flow's own"
# Folded into the key of a training for the noise of its validation rows.
VALIDATION_NOISE = 2**30


class Problem(eqx.Module):
    """What is trained, in flow space: a fixed transform is applied to the data once.

    If the transform is trained, the flow keeps it, and rows are in data units. `offsets` are means
    of `-log_det` of the transform over training and over validation rows: added to a mean negative
    log-density in flow space, they give data units. `log_det` is that of each validation row; None
    without data, and for a trained transform. `batch_transform` is what each step does with its
    rows first: it maps them where the transform adds fresh noise, or augments them. `cond_scaling`
    is already applied to the rows. Rows of a `stream` are drawn from it, and `train` is a sample
    of them.
    """

    flow: Any
    trained: Any
    train: Dataset
    validation: Dataset
    offsets: tuple[float, float] = eqx.field(static=True)
    transform: Any
    log_det: Array | None = None
    batch_transform: BatchTransform | None = None
    cond_scaling: ConditionScaling | None = None
    stream: Stream | None = eqx.field(static=True, default=None)


def prepare(
    flow: Any,
    x: Any,
    cond: Any,
    key: PRNGKeyArray,
    validation: Any,
    transform: Any,
    config: TrainConfig,
    weights: Any = None,
    *,
    standardise: bool = True,
    spread_validation: bool = True,
    train: Any = ("field",),
    augment: Augment | None = None,
) -> dict[str, Problem]:
    """Make a training problem for each candidate transform, by its name; arguments as for `fit`.

    `flow` and `train` are checked. Without data (`x` is None) the flow keeps its transform, and
    rows are placeholders. With `standardise`, conditions are scaled to mean 0 and standard
    deviation 1. Validation rows on a grid get noise within their cells, always the same, unless
    they have it already (`spread_validation=False`): at the middle of a cell the density may be
    far above its mean, and training would be stopped where it is.
    """
    is_other = transform is not None and not isinstance(transform, str)
    if is_other and isinstance(train, Flow) and trains(train, "transform"):
        raise ValueError(
            f"train is a tree for the flow's own transform, and transform={transform} is another: "
            "leave transform out"
        )
    if isinstance(transform, str):
        check_choice("transform", transform, ("auto", None), ", or a transform")
    if x is None:
        return {NOT_FITTED[0]: _without_data(flow, cond, transform, weights, train)}
    stream = None
    if isinstance(x, Shards):
        seed = seed_words(key)
        stream, x, cond, validation = split_shards(x, cond, weights, validation, seed, config)
    rows = data_rows(flow.event_shape, x, cond, "x", weights)
    _check_grid("x", flow, transform, rows)
    if isinstance(validation, float | int):
        indices = split(len(rows.x), float(validation), host_seed(key), name="validation")
        # On the host, where nothing needs to be compiled.
        rows, held_out = (
            jax.tree.map(lambda a, i=i: jnp.asarray(np.asarray(a)[i]), rows) for i in indices
        )
    else:
        held_out = _validation_rows(flow, validation, has_cond=rows.cond is not None)
        if spread_validation:
            _check_grid("validation", flow, transform, held_out)
    _check_constant(flow.transform if isinstance(transform, str | None) else transform, rows.x)
    counted = repeat_rows(rows)
    transforms = _transforms(flow, transform, counted, repeat_rows(held_out), key)
    _check_density(rows.x, next(iter(transforms.values())), key)
    scaling = _cond_scaling(flow, counted.cond) if standardise else None
    if scaling is not None:
        rows, held_out = (
            replace(each, cond=jax.vmap(scaling)(each.cond)) for each in (rows, held_out)
        )
    held_out = jax.tree.map(lambda leaf: leaf[: config.validation_rows], held_out)
    noise_key = jax.random.fold_in(key, VALIDATION_NOISE) if spread_validation else None
    return {
        name: _problem(flow, train, each, rows, held_out, noise_key, scaling, stream, augment)
        for name, each in transforms.items()
    }


def _check_grid(name: str, flow: Flow, transform: Any, rows: Dataset) -> None:
    """Raise if rows are not on the grid of the transform to be used, in the dtype of training."""
    if isinstance(transform, Proposal):
        transform = transform.first or flow.transform
    elif isinstance(transform, str | None):
        transform = flow.transform
    _, transform, rows = promote_dtypes(with_transform(flow, None), transform, rows)
    grid = noise_of(transform)
    if grid is not None:
        try:
            grid.check(rows.x)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_constant(transform: Any, x: Array) -> None:
    """Raise if columns are constant; on a grid they may be, since noise gives them a density."""
    values, grid = np.asarray(x), noise_of(transform)
    if grid is None:
        check_columns(values)
    elif (smooth := np.asarray(grid.step) == 0).any():
        places = map(tuple, np.argwhere(smooth).tolist())
        check_columns(values[:, smooth], columns=list(map(column_label, places)))


def _check_density(x: Array, transform: Any, key: PRNGKeyArray) -> None:
    """Raise if columns depend on each other, after the noise of the transform."""
    if noise_of(transform) is not None:
        transform, x = promote_dtypes(transform, x)
        x = spread_rows(transform, x, key)
    rows = np.asarray(x)
    # The columns of a few rows always do.
    if len(rows) > rows[0].size:
        check_independent(rows)


def _check_support(name: str, transform: Any, log_det: Array) -> None:
    """Raise if rows have density 0, which no training can raise."""
    rows = np.flatnonzero(np.isneginf(np.asarray(log_det)))
    if rows.size:
        raise ValueError(
            f"{name} lies outside the support of transform={transform} in {rows.size} rows, first "
            f"row {rows[0]}: drop these rows, or give the transform wider limits"
        )


def _validation_rows(flow: Flow, validation: Any, *, has_cond: bool) -> Dataset:
    parts = validation if isinstance(validation, tuple) else (validation,)
    if len(parts) > 3:
        raise ValueError(f"validation has {len(parts)} parts; give (x, cond, weights)")
    x, cond, weights = (*parts, None, None)[:3]
    rows = data_rows(flow.event_shape, x, cond, "validation", weights)
    if (rows.cond is not None) != has_cond:
        raise ValueError("give conditions to both or neither: validation=(x_val, cond_val)")
    return rows


def _transforms(
    flow: Flow, transform: Any, train: Dataset, held_out: Dataset, key: PRNGKeyArray
) -> dict[str, Any]:
    """The candidate transforms, by name."""
    if isinstance(transform, Proposal) and transform.parts:
        first = Chain(transform.parts)
        rows = (
            _into_flow_space(first, spread_rows(first, r.x, key))[0] for r in (train, held_out)
        )
        candidates = candidate_transforms(*rows)
        return {name: Chain((*transform.parts, each)) for name, each in candidates.items()}
    if isinstance(transform, str | Proposal):
        if flow.transform is None:
            return dict(candidate_transforms(train.x, held_out.x))
        return {NOT_FITTED[1]: flow.transform}
    return {NOT_FITTED[0]: flow.transform if transform is None else transform}


def _cond_scaling(flow: Any, cond: Array | None) -> ConditionScaling | None:
    """Standardises conditions; None if the flow does so already or has no place for it."""
    if isinstance(flow, CouplingFlow):
        has_place = flow.cond_scaling is None
    else:
        field = getattr(flow, "field", None)
        scales = isinstance(getattr(field, "encoder", None), ObservationEncoder)
        has_place = field is not None and not (isinstance(field, StandardisedCondition) or scales)
    return ConditionScaling.fit(cond) if has_place and cond is not None else None


def in_data_units(flow: Any, problem: Problem) -> Any:
    """Give a trained flow the transform and the scaling of conditions of its problem."""
    if problem.cond_scaling is not None and isinstance(flow, CouplingFlow):
        flow = eqx.tree_at(
            lambda f: f.cond_scaling, flow, problem.cond_scaling, is_leaf=lambda leaf: leaf is None
        )
    elif problem.cond_scaling is not None:
        flow = replace(flow, field=StandardisedCondition(flow.field, problem.cond_scaling))
    # A transform that was trained is part of the flow.
    return with_transform(flow, problem.transform) if flow.transform is None else flow


def _problem(
    flow: Any,
    chosen: Any,
    transform: Any,
    train: Dataset,
    held_out: Dataset,
    noise_key: PRNGKeyArray | None,
    scaling: ConditionScaling | None,
    stream: Stream | None,
    augment: Augment | None,
) -> Problem:
    # The flow has its transform only if that is trained.
    keeps = trains(chosen, "transform")
    flow = with_transform(flow, transform if keeps else None)
    if isinstance(chosen, tuple):
        trained = trainable(flow, chosen)
    else:
        trained = chosen if keeps else with_transform(chosen, None)
    flow, transform, train, held_out = promote_dtypes(flow, transform, train, held_out)
    check_strict(transform, train.x)
    check_strict(transform, held_out.x)
    log_q = jnp.zeros(len(held_out.x), held_out.x.dtype)
    if noise_key is not None and noise_of(transform) is not None:
        noisy, log_q = spread_with_log_prob(transform, held_out.x, noise_key)
        held_out = replace(held_out, x=noisy)
    # One program for both.
    both = _into_flow_space(transform, jnp.concatenate([train.x, held_out.x]))
    (u, held_u), (log_det, held_log_det) = (jnp.split(each, [len(train.x)]) for each in both)
    _check_support("x", transform, log_det)
    _check_support("validation", transform, held_log_det)
    held_log_det = held_log_det - log_q
    problem = Problem(
        flow,
        trained,
        train,
        held_out,
        (0.0, float(weighted_mean(log_q, held_out.weights))),
        transform,
        batch_transform=None if augment is None else BatchTransform(None, augment),
        cond_scaling=scaling,
        stream=stream,
    )
    if keeps:
        return problem
    each_batch = stream is not None or noise_of(transform) is not None or augment is not None
    return replace(
        problem,
        train=train if each_batch else replace(train, x=u),
        validation=replace(held_out, x=held_u),
        offsets=(
            -float(weighted_mean(log_det, train.weights)),
            -float(weighted_mean(held_log_det, held_out.weights)),
        ),
        log_det=held_log_det,
        batch_transform=BatchTransform(transform, augment) if each_batch else None,
    )


@eqx.filter_jit
def _into_flow_space(transform: Any, x: Float[Array, "rows *event"]) -> tuple[Array, Array]:
    return to_flow_space(transform, x)


def _without_data(flow: Flow, cond: Any, transform: Any, weights: Any, chosen: Any) -> Problem:
    if weights is not None or not isinstance(transform, str | None):
        raise ValueError("x=None has no rows to weight or transform: leave weights, transform out")
    cond = None if cond is None else jnp.asarray(cond)
    count = 1 if cond is None else len(cond)
    flow, cond = promote_dtypes(flow, cond)
    rows = Dataset(jnp.zeros((count, *flow.event_shape), widest_dtype(flow)), cond)
    trained = trainable(flow, chosen) if isinstance(chosen, tuple) else chosen
    return Problem(flow, trained, rows, rows, (0.0, 0.0), flow.transform)
