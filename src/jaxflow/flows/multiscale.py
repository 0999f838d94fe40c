"""`Multiscale`: a flow for images in several scales, each a solve of its own."""

import math
from collections.abc import Sequence
from functools import partial, reduce
from itertools import accumulate
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import StandardNormal, as_base, log_prob_rows
from jaxflow.density.error import LogDensity, mark_no_density
from jaxflow.flows.cnf import CNF
from jaxflow.flows.data_space import (
    add_log_det,
    check_arguments,
    raise_on_failure,
    transform_rows,
)
from jaxflow.flows.flow import Flow, map_rows
from jaxflow.ode import ODE, Stats
from jaxflow.runtime.precision import full_precision
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.trace import Auto, Estimator, Exact, Hutchinson, Trace, XTrace, as_trace

Rows = Float[Array, "rows _ _ _"]


class Multiscale(Flow):
    """A flow for images that sends half of the entries to the base after each scale.

    ```
    h_1 = x,    g_k = CNF_k(h_k),    (h_{k+1}, z_k) = split(squeeze(g_k)),    z = (z_1, ..., g_K)
    ```
    From data to base, each scale solves an ODE of its own, squeezes 2 x 2 places into channels,
    and splits off half of these; the last scale sends all. Squeezing and splitting keep volumes,
    so `log p(x) = log p_0(z) + sum_k` (change of the k-th solve): one exact log-density. The
    architecture is that of Grathwohl et al. (2019), "FFJORD", arXiv 1810.01367, section 4.2,
    after Dinh et al. (2017), "RealNVP", arXiv 1605.08803.

    ```python
    import jax
    from jaxflow.bases import StandardNormal
    from jaxflow.dynamics import Convolutional
    from jaxflow.flows import Multiscale

    keys = jax.random.split(jax.random.key(0))
    fields = [
        Convolutional(shape, width=8, key=key)
        for shape, key in zip([(8, 8, 1), (4, 4, 2)], keys, strict=True)
    ]
    flow = Multiscale(fields, StandardNormal((8, 8, 1)))
    x = flow.sample(keys[0], 2)  # (2, 8, 8, 1)
    ```

    Attributes:
        fields: a field for each scale, on images of shape (h, w, c), (h/2, w/2, 2c),
            (h/4, w/4, 4c) and so on.
        base: density of `z`, of the shape of an image, with its entries in the order of scales.
        transform: fixed map from data to flow space, or None.
        trace: as for `CNF`, in every scale.
        ode: settings of the training solves.
        ode_eval: settings of all other solves.

    Raises:
        TypeError: a field cannot be called.
        ValueError: events are no images, or cannot be halved so often.
    """

    fields: tuple[Any, ...]
    base: Any
    transform: Any
    trace: Auto | Exact | Estimator | XTrace
    ode: ODE = eqx.field(static=True)
    ode_eval: ODE = eqx.field(static=True)

    def __init__(
        self,
        fields: Sequence[Any],
        base: Any,
        *,
        transform: Any = None,
        trace: Trace = "auto",
        ode: ODE = ODE(solver="rk4", num_steps=4),
        ode_eval: ODE = ODE(solver="tsit5", rtol=1e-5, atol=1e-5),
    ) -> None:
        self.fields, self.base, self.transform = tuple(fields), as_base(base), transform
        if not self.fields:
            raise ValueError("fields=() is empty: give a field for each scale")
        for field in self.fields:
            self.trace = as_trace(trace, field)
        if isinstance(self.trace, Hutchinson) and self.trace.target_se is not None:
            raise ValueError(
                f"trace={self.trace} chooses the number of probes for one solve, and this flow "
                "has several: write Hutchinson(num_probes)"
            )
        self.ode, self.ode_eval = ode, ode_eval
        self.check_loaded()

    def check_loaded(self) -> None:
        """Raise ValueError unless fields and base fit each other."""
        shape, halvings = tuple(self.base.event_shape), 2 ** (len(self.fields) - 1)
        if len(shape) != 3 or any(side % halvings for side in shape[:2]):
            raise ValueError(
                f"base has events of shape {shape}: {len(self.fields)} scales need images "
                f"(height, width, channels) whose sides are multiples of {halvings}; give fewer "
                "fields"
            )
        for scale in self._scales():
            scale.check_loaded()

    def _scales(self) -> list[CNF]:
        """A flow for each scale, whose base is not used."""
        settings: dict[str, Any] = {"ode": self.ode, "ode_eval": self.ode_eval}
        return [
            CNF(field, StandardNormal(shape), transform=None, trace=self.trace, **settings)
            for field, shape in zip(self.fields, self._shapes(), strict=True)
        ]

    def _shapes(self) -> list[tuple[int, int, int]]:
        """The shape of an image in each scale."""
        height, width, channels = self.base.event_shape
        return [(height >> k, width >> k, channels << k) for k in range(len(self.fields))]

    def density_rows(
        self, u: Rows, cond: Array | None, key: PRNGKeyArray | None, *, training: bool
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density of rows in flow space; arguments as for `Flow.density_rows`."""
        value, _, stats = self._density(u, cond, key, training=training)
        return value, stats

    def _density(
        self, u: Rows, cond: Array | None, key: PRNGKeyArray | None, *, training: bool
    ) -> tuple[Array, Array | None, Stats]:
        """Log-densities, the standard error of their traces, and the counts of all solves."""
        parts, changes, errors, solves = [], [], [], []
        for k, scale in enumerate(self._scales()):
            if k:
                u, part = _split(u)
                parts.append(part)
            u, change, error, counts = scale.change_rows(
                u, 1.0, 0.0, cond, _key(key, k), training=training
            )
            changes.append(change)
            errors.append(error)
            solves.append(counts)
        value = log_prob_rows(self.base, self._join(parts, u), grouped=not training) - sum(changes)
        unknown = any(error is None for error in errors)
        trace_se = None if unknown else jnp.linalg.norm(jnp.stack(errors), axis=0)
        return value, trace_se, mark_no_density(reduce(Stats.then, solves), value)

    def sample_rows(
        self,
        z: Rows,
        log_p: Float[Array, " rows"] | None,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool = False,
    ) -> tuple[Rows, Float[Array, " rows"] | None, Stats | None]:
        """Carry rows of the base to flow space; arguments as for `Flow.sample_rows`."""
        parts, u = self._take_apart(z)
        solves = []
        for k, scale in reversed(list(enumerate(self._scales()))):
            u, log_p, counts = scale.sample_rows(u, log_p, cond, _key(key, k), training=training)
            solves.append(counts)
            if k:
                u = _unsplit(u, parts[k - 1])
        return u, log_p, reduce(Stats.then, solves)

    def encode_rows(self, u: Rows, cond: Array | None) -> tuple[Rows, Stats | None]:
        """Carry rows of flow space to the base; as `Flow.encode_rows`."""
        parts, solves = [], []
        for k, scale in enumerate(self._scales()):
            if k:
                u, part = _split(u)
                parts.append(part)
            u, counts = scale.encode_rows(u, cond)
            solves.append(counts)
        return self._join(parts, u), reduce(Stats.then, solves)

    def log_prob_with_error(
        self,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
        *,
        progress: bool | None = False,
    ) -> LogDensity:
        """Log-density of `x` with the standard error of its traces.

        The error of the steps of several solves in turn is not estimated: `ode_error` is None.
        Compare with a flow of tighter `ode_eval` instead.

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.
            key: random key for the probes of a stochastic trace.
            progress: whether to show a progress bar; None shows it on a terminal only.

        Returns:
            A `LogDensity`, each field of shape (*batch).

        Raises:
            ValueError: as `Flow.log_prob`.
            SolveError: the solve of a row failed.
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x", keep_float64=True)
        inputs = *transform_rows(flow, rows), cond
        score = partial(_log_prob_with_error, flow)
        answer, stats = map_rows(flow, score, inputs, key, progress)
        answer = raise_on_failure(self, answer, stats, "log_prob_with_error")
        return jax.tree.map(lambda values: values.reshape(batch), answer)

    def _join(self, parts: list[Array], last: Array) -> Array:
        flat = [part.reshape(len(last), -1) for part in (*parts, last)]
        return jnp.concatenate(flat, axis=1).reshape(-1, *self.base.event_shape)

    def _take_apart(self, z: Array) -> tuple[list[Array], Array]:
        """The inverse of `_join`: the parts that scales split off, and the end of the last one."""
        shapes = self._shapes()
        # What scale k splits off has the shape of scale k + 1.
        shapes = [*shapes[1:], shapes[-1]]
        ends = list(accumulate(map(math.prod, shapes[:-1])))
        blocks = jnp.split(z.reshape(len(z), -1), ends, axis=1)
        parts = [block.reshape(-1, *s) for block, s in zip(blocks, shapes, strict=True)]
        return parts[:-1], parts[-1]


@eqx.filter_jit
@full_precision
def _log_prob_with_error(
    flow: Multiscale, u: Array, log_det: Array, cond: Array | None, key: PRNGKeyArray | None
) -> tuple[LogDensity, Stats]:
    value, trace_se, stats = flow._density(u, cond, key, training=False)
    value, stats = add_log_det(value, stats, log_det)
    return LogDensity(value, trace_se, None, None, stats.status, stats.num_evals), stats


def _key(key: PRNGKeyArray | None, scale: int) -> PRNGKeyArray | None:
    return None if key is None else jax.random.fold_in(key, scale)


def _split(h: Rows) -> tuple[Rows, Rows]:
    """Squeeze 2 x 2 places into channels; the half to continue with, and the half to split off."""
    rows, height, width, channels = h.shape
    cells = h.reshape(rows, height // 2, 2, width // 2, 2, channels)
    cells = jnp.moveaxis(cells, 2, 3).reshape(rows, height // 2, width // 2, 4 * channels)
    return cells[..., : 2 * channels], cells[..., 2 * channels :]


def _unsplit(going: Rows, done: Rows) -> Rows:
    """The inverse of `_split`."""
    cells = jnp.concatenate([going, done], axis=-1)
    rows, height, width, channels = cells.shape
    cells = cells.reshape(rows, height, width, 2, 2, channels // 4)
    return jnp.moveaxis(cells, 3, 2).reshape(rows, 2 * height, 2 * width, channels // 4)
