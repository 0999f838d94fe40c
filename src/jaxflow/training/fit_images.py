"""`fit_images`: a flow for images of levels, with the defaults of this library."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.dynamics import GaussianVelocity, OptionalCondition, Sum, UNet
from jaxflow.dynamics.convolutional import check_image_shape, stack_images
from jaxflow.flows.cnf import CNF
from jaxflow.objectives import FlowMatching, Stage, Staged, maximum_likelihood
from jaxflow.objectives.protocol import Objective
from jaxflow.ode import ODE
from jaxflow.runtime.checks import check_choice, check_count, split
from jaxflow.runtime.keys import host_seed
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.trace import Hutchinson
from jaxflow.training.augment import BatchTransform, Moves, augment_rows
from jaxflow.training.config import TrainConfig
from jaxflow.training.fit import fit
from jaxflow.training.history import History
from jaxflow.training.record import Callback
from jaxflow.transforms import TruncatedNormal, pixels

# A training has few validations, of few images and by few steps.
VALIDATIONS, VALIDATION_IMAGES = 4, 128
WATCHED = ODE(solver="midpoint", num_steps=4)
# Its stated error is some 1e-4 bits per dimension, far below that of a test set.
EVALUATED = ODE(solver="tsit5", rtol=1e-2, atol=1e-2)
# Channels of each resolution of the U-Net, as multiples of its width; sides at the lowest one.
MULTIPLIERS, LEAST_SIDE, LARGEST_SIDE = (1, 2, 4, 4), 4, 32
# Entries of images that start from their Gaussian: its products cost as much as the network's in
# larger ones, and smaller ones, such as 8 x 8 digits, have fewer bits without it.
GAUSSIAN_ENTRIES = range(256, 4097)
# Share of the images that are trained without their condition, for guidance.
DROP = 0.1
STEPS, BATCH_SIZE, LEARNING_RATE, WIDTH, EMA = 2000, 64, 2e-3, 16, 0.995
# Error of the training solves by which likelihood may be misled, in bits per dimension.
SOLVER_ERROR = 0.005
NOISES = {"uniform": None, "truncated": TruncatedNormal(0.25)}
OBJECTIVES = ("matching", "staged")


def fit_images(
    images: ArrayInput,
    cond: ArrayInput | None = None,
    *,
    key: PRNGKeyArray,
    levels: SupportsIndex | None = None,
    field: Any = None,
    width: SupportsIndex | None = None,
    steps: int = STEPS,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    validation: float | tuple[Any, ...] = 0.1,
    flips: bool = False,
    shifts: SupportsIndex = 0,
    ema: float = EMA,
    noise: str = "uniform",
    objective: Objective | str = "matching",
    max_seconds: float | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> tuple[CNF, History]:
    """Train a flow of images: levels by `pixels`, a U-Net, flow matching, averaged weights.

    Images of 256 to 4,096 entries start from the Gaussian of their normal scores
    (`jaxflow.dynamics.GaussianVelocity`), and the U-Net learns what it lacks.

    With conditions the flow is `p(image | cond)`. A tenth of the images is trained without
    theirs, so `GuidedField` can exaggerate the condition, and a condition of NaN stands for none.

    ```python
    import jax
    import numpy as np
    import jaxflow

    key = jax.random.key(0)
    images = np.random.default_rng(0).integers(0, 16, (40, 4, 4, 1))
    flow, history = jaxflow.fit_images(images, key=key, width=4, steps=2)  # 2000 by default
    ```

    Args:
        images: levels, integers from 0, (n, height, width, channels), or (n, height, width)
            for grey images.
        cond: conditions, such as classes one-hot, (n, *condition); None for none.
        key: for weights, minibatches and noise.
        levels: number of levels; None for `find_levels(images)`.
        field: a field for images of this shape; None for `image_field` and the Gaussian.
        width: channels of the U-Net at the full resolution; None for 16.
        steps: number of updates.
        batch_size: images of an update; None for 64.
        learning_rate: peak learning rate; None for 0.002.
        validation: share of the images to hold out, or held-out `(images,)` or `(images, cond)`.
        flips: mirror each image of a minibatch with probability 1/2 (left and right), for images
            whose mirror image is as likely.
        shifts: move each image of a minibatch by up to this many pixels in both directions, less
            than half of the sides; a border repeats the pixels next to it.
        ema: decay of the average of the weights, in [0, 1).
        noise: noise within the cells of levels, `"uniform"` or `"truncated"`
            (`jaxflow.transforms.TruncatedNormal`).
        objective: `"matching"`, flow matching; `"staged"`, then likelihood for 8 % of the steps;
            or an objective, such as a `Staged` of your own.
        max_seconds: as in `TrainConfig`.
        progress: show a progress bar; None for only on a terminal.
        callback: as for `fit`.
        checkpoint: as for `fit`.
        resume: as for `fit`.

    Returns:
        The flow, which draws levels, and the `History`. Its log-densities are by one probe and
        adaptive steps; `dataclasses.replace(flow, trace=..., ode_eval=...)` chooses others.

    Raises:
        ValueError: bad images; a shape that the U-Net cannot halve; an unknown `noise` or
            `objective`.
        TrainingError: no validation value was finite.
    """
    for name, value, known in (("noise", noise, NOISES), ("objective", objective, OBJECTIVES)):
        if isinstance(value, str):
            check_choice(name, value, known)
    x, levels = as_images(images, levels)
    conds = None if cond is None else _as_conditions(cond, len(x))
    if isinstance(validation, tuple):
        held = as_images(validation[0], levels)[0], *validation[1:]
    else:
        train, out = split(len(x), float(validation), host_seed(key))
        held = x[out], None if conds is None else conds[out]
        x, conds = x[train], None if conds is None else conds[train]
    shape = x.shape[1:]
    shifts = check_count("shifts", shifts, 0)
    moves = Moves(flips=flips, shifts=shifts, shape=shape) if flips or shifts else None
    moved = x if moves is None else np.asarray(augment_rows(moves, jnp.asarray(x), key))
    entries = 0 if conds is None else conds[0].size
    field_key, key = jax.random.split(key)
    transform = pixels(moved, levels, noise=NOISES[noise])
    if field is None:
        field = image_field(shape, width=width, cond_dim=entries, key=field_key)
        if math.prod(shape) in GAUSSIAN_ENTRIES and len(x) > 1:
            u = BatchTransform(transform)(jnp.asarray(moved), key)
            field = Sum((field, GaussianVelocity.fit(u)))
    if isinstance(objective, str):
        matching = FlowMatching(drop=DROP if entries else 0.0)
        stages = Stage(matching, 0.92), Stage(maximum_likelihood, 0.08, rate=0.25)
        objective = Staged(stages) if objective == "staged" else matching
    # Likelihood would learn the errors of the solver that flow matching is watched by.
    watched = getattr(objective, "simulation_free", False)
    ode_eval = WATCHED if watched else EVALUATED
    flow, history = fit(
        CNF(field, StandardNormal(shape), trace=Hutchinson(1), ode=WATCHED, ode_eval=ode_eval),
        x,
        conds,
        key=key,
        validation=held,
        transform=transform,
        augment=moves,
        objective=objective,
        config=TrainConfig(
            steps=steps,
            batch_size=BATCH_SIZE if batch_size is None else batch_size,
            learning_rate=LEARNING_RATE if learning_rate is None else learning_rate,
            ema=ema,
            eval_every=max(1, steps // VALIDATIONS),
            validation_rows=VALIDATION_IMAGES,
            patience=None,
            max_seconds=max_seconds,
            solver_error=math.inf if watched else SOLVER_ERROR * x[0].size * math.log(2),
        ),
        progress=progress,
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
    )
    return replace(flow, ode_eval=EVALUATED), history


def image_field(
    shape: tuple[int, ...],
    *,
    width: SupportsIndex | None = None,
    cond_dim: int = 0,
    key: PRNGKeyArray,
) -> Any:
    """The default field of `fit_images`: a U-Net with as many resolutions as the sides allow.

    The channels at the full resolution are `width` or 16. A condition may be absent. Raises
    ValueError for sides that cannot be halved to 32 or fewer.
    """
    sides, multipliers = list(check_image_shape(shape)[:2]), [MULTIPLIERS[0]]
    for multiplier in MULTIPLIERS[1:]:
        if any(side % 2 for side in sides) or min(sides) <= LEAST_SIDE:
            break
        sides = [side // 2 for side in sides]
        multipliers.append(multiplier)
    if max(sides) > LARGEST_SIDE:
        raise ValueError(
            f"shape={shape}: sides that halve to {sides[0]} x {sides[1]} are too large for the "
            f"attention of the default U-Net, at most {LARGEST_SIDE}: crop or pad the images to "
            "sides that are multiples of 8, or give field="
        )
    width = WIDTH if width is None else width
    unet = partial(UNet, shape, width=width, multipliers=tuple(multipliers), key=key)
    return OptionalCondition(unet(cond_dim=cond_dim + 1), cond_dim) if cond_dim else unet()


def as_images(images: ArrayInput, levels: SupportsIndex | None = None) -> tuple[np.ndarray, int]:
    """Levels as float32, (n, height, width, channels), and their number, checked."""
    values = stack_images(images)
    if values.ndim == 3 and (len(values) in (1, 3, 4) or values.shape[-1] in (1, 3)):
        first = len(values) in (1, 3, 4)
        one = "np.moveaxis(images, 0, -1)[None]" if first else "images[None]"
        raise ValueError(
            f"images has shape {values.shape}, which looks like one image with its channels "
            f"{'first' if first else 'last'}: write {one} for one image, or images[..., None] for "
            f"{len(values)} grey ones"
        )
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or not len(values):
        raise ValueError(
            f"images has shape {values.shape}; numbers (n, height, width, channels) are needed, "
            "or (n, height, width) for grey images"
        )
    check_image_shape(values.shape[1:])
    in_images = find_levels(values)
    levels = in_images if levels is None else check_count("levels", levels, 2)
    if (most := values.max()) > levels - 1:
        raise ValueError(
            f"images has the value {most:g}, and levels={levels} allows 0 to {levels - 1}: give "
            f"levels={in_images}"
        )
    return values.astype(np.float32), levels


def _as_conditions(cond: ArrayInput, num: int) -> np.ndarray:
    """Conditions as an array, one for each image; raise ValueError for class numbers."""
    conds = np.asarray(cond)
    if conds.ndim and len(conds) != num:
        raise ValueError(f"cond has {len(conds)} rows for {num} images: give one for each")
    if (conds.ndim < 2 and conds.dtype.kind != "f") or conds.dtype.kind not in "biuf":
        raise ValueError(
            f"cond has shape {conds.shape} and dtype {conds.dtype}; classes must be one-hot: "
            "write classes, index = np.unique(labels, return_inverse=True), then "
            "cond=np.eye(len(classes), dtype=np.float32)[index]"
        )
    return conds


def find_levels(images: ArrayInput) -> int:
    """The number of levels of images: one more than the largest, and 256 above 128."""
    values = np.asarray(images)
    low, most = values.min(), values.max()
    if not np.isfinite(values).all():
        raise ValueError("images has NaN or infinity, and levels are integers from 0")
    if low < 0 or (values != np.round(values)).any():
        scale = "127.5 * (images + 1)" if low < 0 else "255 * images"
        raise ValueError(
            f"images has values from {low:g} to {most:g} that are not levels, integers from 0: "
            f"write np.round({scale}) for images of 8 bits scaled to "
            f"[{'-1' if low < 0 else '0'}, 1]"
        )
    if most < 1:
        raise ValueError("images are 0 everywhere: two levels or more are needed")
    return 256 if 128 <= most < 256 else int(most) + 1
