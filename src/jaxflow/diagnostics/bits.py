"""Bits per dimension of images, with a standard error for each source of error."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.convolutional import check_image, stack_images
from jaxflow.flows.ensemble import members
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import widest_dtype
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.trace import Auto, Exact
from jaxflow.transforms import Dequantise, noise_of

# Images on which the noise of the trace and the error of the solves are measured.
REPEATED = 64


class BitsPerDim(NamedTuple):
    """Bits per dimension of a set of images, and how well they are known.

    The squares of the three standard errors sum to that of `standard_error`.

    Attributes:
        bits: mean of `-log2 q` over images and draws of noise: by Jensen's inequality an upper
            bound of the mean of `-log2 P(image) / dimensions`, for any noise.
        tighter: the bound with the density averaged over the draws of each image first (Burda et
            al. 2016, arXiv 1509.00519, eq. 8); None with a stochastic trace, whose noise an
            average of densities would take for mass, or with one draw.
        probe_se: standard error from the probes of a stochastic trace; 0 for an exact trace.
        draw_se: standard error from the draws of noise within the cells; None with one draw, whose
            error `test_se` contains.
        test_se: standard error from the choice of the images.
        solver_error: mean stated error of the solves, not a standard error: it does not fall with
            the number of images. None where the flow states none.
        num_images: images.
        num_draws: draws of noise for each image.
        each: bits per dimension of each image, the mean over its draws, (images,).
        each_se: standard error of each of them from its draws, of noise and of probes together,
            (images,); None with one draw.
    """

    bits: float
    tighter: float | None
    probe_se: float
    draw_se: float | None
    test_se: float
    solver_error: float | None
    num_images: int
    num_draws: int
    each: Float[np.ndarray, " images"]
    each_se: Float[np.ndarray, " images"] | None

    @property
    def standard_error(self) -> float:
        """Standard error of `bits` from probes, draws and images together."""
        return math.hypot(self.probe_se, self.draw_se or 0.0, self.test_se)

    def __str__(self) -> str:
        tighter = "" if self.tighter is None else f", {self.tighter:.4f} by importance weights"
        draws = "unknown" if self.draw_se is None else f"{self.draw_se:.4f}"
        solver = "not stated" if self.solver_error is None else f"{self.solver_error:.1e}"
        return (
            f"at most {self.bits:.4f} bits/dim{tighter} (standard errors: probes "
            f"{self.probe_se:.4f}, draws {draws}, {self.num_images} images "
            f"{self.test_se:.4f}; error of the solves {solver})"
        )


def bits_per_dim(
    flow: Any,
    images: ArrayInput,
    cond: ArrayInput | None = None,
    *,
    key: PRNGKeyArray,
    bits: int = 8,
    limits: Sequence[float] | None = None,
    num_draws: int = 2,
) -> BitsPerDim:
    """Bound the bits per dimension of images of levels `0, 1, ..., 2^bits - 1`.

    The probability of an image is the integral of the density over its cell, bounded by noise
    `v ~ q(v | x)` within the cell, uniform or learned (`jaxflow.fit_noise`):

    ```
    -log2 P(x) <= E_v[log2 q(v | x) - log2 p(x + w v)] - d log2 w
    ```
    with cells of width `w` (Theis et al. 2016, arXiv 1511.01844; Ho et al. 2019, "Flow++",
    arXiv 1902.00275, eq. 12). The noise of the trace is measured by a second set of probes on 64
    images at random, where the error of the solves is stated too.

    ```python
    import jax
    from jaxflow import CNF, ODE, StandardNormal
    from jaxflow.diagnostics import bits_per_dim

    key = jax.random.key(0)
    base, ode = StandardNormal((4, 4, 1)), ODE(solver="rk4", num_steps=4)
    flow = CNF(lambda t, x: -x, base, ode_eval=ode)  # a trained flow in practice
    images = jax.random.randint(key, (20, 4, 4, 1), 0, 256)  # images of 8 bits
    print(bits_per_dim(flow, images, key=key, limits=(-1.0, 1.0)))
    ```

    Args:
        flow: a flow. If its transform starts with a `Dequantise`, its grid and noise are used.
        images: levels, integers, (images, height, width, channels); for a flow with a grid,
            points of the grid, whose `origin` is level 0.
        cond: conditions, (images, *condition), or one for all.
        key: for the noise and the probes.
        bits: depth of the images.
        limits: the range that the levels fill in the flow's units, such as (-1, 1). Default:
            (0, 2^bits), one unit for each level. Only for a flow without a grid.
        num_draws: draws of noise for each image; the cost is proportional.

    Returns:
        A `BitsPerDim`.

    Raises:
        ValueError: images have another shape than the flow's events, or values outside the depth
            or between its levels, or outside the range of the flow; or an argument is out of
            range.
    """
    bits, num_draws = check_count("bits", bits), check_count("num_draws", num_draws)
    values, own = stack_images(images).astype(np.float64), noise_of(flow.transform)
    _check_shape(values, tuple(flow.event_shape))
    grid = _grid(flow.event_shape, bits, limits) if own is None else own
    if own is not None and limits is not None:
        raise ValueError(f"limits={limits} for a flow with a grid of its own: leave limits out")
    steps, origin = np.asarray(grid.step, np.float64), np.asarray(grid.origin, np.float64)
    if not (steps > 0).all():
        raise ValueError("transform has continuous entries (step 0), which have no bits")
    levels = values if own is None else (values - origin) / steps
    _check_levels(levels, bits)
    points = jnp.asarray(origin + steps * np.round(levels), widest_dtype(flow))
    log_width = 0.0 if own is not None else float(np.log(steps).sum())
    per_nat = 1 / (points[0].size * math.log(2))
    noise_key, probe_key = jax.random.split(key)
    each, variance, solver = [], 0.0, None
    for draw in range(num_draws):
        inside, log_q = _add_noise(grid, points, jax.random.fold_in(noise_key, draw))
        own_key = jax.random.fold_in(probe_key, draw)
        if not draw:
            flow = flow.choose_probes(inside, cond, own_key)
        log_p = np.asarray(flow.log_prob(inside, cond, own_key), np.float64)
        _check_inside(log_p, levels)
        if not draw:
            again_key = jax.random.fold_in(probe_key, num_draws)
            variance, solver = _repeat_few(flow, inside, cond, log_p, again_key)
        each.append((np.asarray(log_q, np.float64) - log_p - log_width) * per_nat)
    traces = (getattr(flow, "trace", Exact()) for flow in members(flow))
    exact = all(isinstance(trace, Auto | Exact) for trace in traces)
    probes = None if exact else variance * per_nat**2
    return _summary(np.stack(each), probes, solver, 1 / per_nat)


def _summary(
    each: Float[np.ndarray, "draws images"], probes: float | None, solver: Any, nats: float
) -> BitsPerDim:
    """The `BitsPerDim` of the bits of each image and draw.

    `probes` is the variance from the probes of the traces, None if these are exact; `solver` holds
    the errors of the solves in nats, or None; an image of 1 bit per dimension has `nats` nats.
    """
    (num_draws, num_images), exact, probes = each.shape, probes is None, probes or 0.0
    within = each.var(axis=0, ddof=1).mean() if num_draws > 1 else probes
    total = each.mean(axis=0).var(ddof=1) / num_images if num_images > 1 else np.nan
    of_probes = probes / each.size
    of_draws = max(within - probes, 0.0) / each.size
    of_images = total - of_probes - of_draws
    tighter = None
    if num_draws > 1 and exact:
        log_mean = np.logaddexp.reduce(-nats * each, axis=0) - math.log(num_draws)
        tighter = float(-log_mean.mean() / nats)
    return BitsPerDim(
        bits=float(each.mean()),
        tighter=tighter,
        probe_se=float(np.sqrt(of_probes)),
        draw_se=float(np.sqrt(of_draws)) if num_draws > 1 else None,
        test_se=float(np.sqrt(np.maximum(of_images, 0.0))),
        solver_error=None if solver is None else float(np.mean(solver)) / nats,
        num_images=num_images,
        num_draws=num_draws,
        each=each.mean(axis=0),
        each_se=each.std(axis=0, ddof=1) / num_draws**0.5 if num_draws > 1 else None,
    )


def _repeat_few(
    flow: Any, x: Array, cond: Any, log_p: np.ndarray, key: PRNGKeyArray
) -> tuple[float, Any]:
    """Repeat a few images with other probes: the variance from probes, and errors of the solves.

    The errors, in nats, are None if the flow states none.
    """
    choice_key, key = jax.random.split(key)
    few = jax.random.choice(choice_key, len(x), (min(REPEATED, len(x)),), replace=False)
    if cond is not None and jnp.ndim(cond) > 1:
        cond = jnp.asarray(cond)[few]
    # Fixed steps state no error: the program of the images serves again.
    states_error = getattr(flow, "states_error", lambda: hasattr(flow, "log_prob_with_error"))
    if states_error():
        answer = flow.log_prob_with_error(x[few], cond, key)
        again, error = answer.value, answer.ode_error
    else:
        again, error = flow.log_prob(x[few], cond, key), None
    difference = log_p[np.asarray(few)] - np.asarray(again, np.float64)
    return float(np.mean(difference**2)) / 2, error


def _check_inside(log_p: np.ndarray, levels: np.ndarray) -> None:
    """Raise unless all images have a density."""
    finite = np.isfinite(log_p)
    if not finite.all():
        i = int(finite.argmin())
        raise ValueError(
            f"images[{i}] has levels from {levels[i].min():g} to {levels[i].max():g} and "
            f"log-density {log_p[i]:g}: it lies outside the range of the flow, which was made for "
            "fewer levels or other limits; give images of the levels it was trained on"
        )


def _check_shape(values: np.ndarray, shape: tuple[int, ...]) -> None:
    if not values.size:
        raise ValueError(f"images has shape {values.shape}: give one image or more")
    if values.shape in (shape, shape[-1:] + shape[:-1]):
        own = "images" if values.shape == shape else "np.moveaxis(images, 0, -1)"
        raise ValueError(f"images has the shape of one image, {values.shape}: write {own}[None]")
    check_image(values[0], shape)


def _grid(shape: tuple[int, ...], bits: int, limits: Sequence[float] | None) -> Dequantise:
    limits = (0.0, 2.0**bits) if limits is None else limits
    if len(limits) != 2 or not -math.inf < limits[0] < limits[1] < math.inf:
        raise ValueError(f"limits={limits} must be two numbers, the lower one first")
    low, high = limits
    width = (high - low) / 2**bits
    return Dequantise(np.full(shape, width), np.full(shape, low + width / 2))


def _check_levels(levels: Float[np.ndarray, "..."], bits: int) -> None:
    """Raise unless all values are whole numbers below `2^bits`."""
    most, low, high = 2**bits - 1, levels.min(), levels.max()
    if not (low >= -0.01 and high <= most + 0.01):
        raise ValueError(
            f"images has levels from {low:g} to {high:g}, and bits={bits} allows 0 to {most}: "
            "give the depth of the images by bits="
        )
    off = np.abs(levels - np.round(levels))
    if not off.max() <= 0.01:
        raise ValueError(
            f"images has the level {levels.ravel()[off.argmax()]:g}, and levels are whole numbers "
            f"from 0 to {most}: write np.round({most} * images) for images between 0 and 1"
        )


@eqx.filter_jit
def _add_noise(grid: Dequantise, x: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
    return jax.vmap(grid.spread_with_log_prob)(x, jax.random.split(key, len(x)))
