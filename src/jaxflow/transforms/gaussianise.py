"""Map each column to normal scores by a monotone rational-quadratic spline with linear tails."""

from typing import NamedTuple, SupportsIndex, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.runtime.checks import check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.quantile_knots import default_num_knots, fit_column, pad_knots
from jaxflow.transforms.samples import checked_rows, is_concrete, samples_to_fit


@final
class Gaussianise(eqx.Module):
    r"""Map each column to normal scores by a smooth increasing curve.

    Between knots `(x_k, y_k)` with slopes `m_k` the curve is a rational quadratic. With
    `w = x_{k+1} - x_k`, `h = y_{k+1} - y_k`, `t = (x - x_k) / w`, `a = m_k w / h` and
    `b = m_{k+1} w / h`:

        u     = y_k + h (t^2 + a t (1 - t)) / D,          D = 1 + (a + b - 2) t (1 - t)
        du/dx = h / w (b t^2 + 2 t (1 - t) + a (1 - t)^2) / D^2

    Beyond the outermost knots the curve is a straight line: `u` and `du/dx` are continuous, and
    normal tails in `u` are normal tails in `x`. The inverse solves a quadratic. Columns are
    mapped separately; the flow models their dependence.

    Rational-quadratic interpolation: Gregory and Delbourgo (1982), IMA J. Numer. Anal. 2; in
    flows: Durkan et al. (2019), "Neural Spline Flows", arXiv 1906.04032, eq. 4. Slopes: Steffen
    (1990), A&A 239.

    ```python
    import jax
    from jaxflow.transforms import Gaussianise

    x = jax.random.lognormal(jax.random.key(0), shape=(1000, 2))
    transform = Gaussianise.fit(x)
    u, log_det = jax.vmap(transform.forward)(x)  # (1000, 2), (1000,)
    ```
    """

    knots: Float[Array, "d k"]
    scores: Float[Array, "d k"]
    slopes: Float[Array, "d k"]
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        knots: Float[Array, "d k"],
        scores: Float[Array, "..."],
        slopes: Float[Array, "..."],
    ) -> None:
        """Make the transform from its curves; `fit` estimates them from data.

        Args:
            knots: `x_k`, in the data's units, strictly increasing along the last axis, (d, K).
            scores: `y_k`, strictly increasing along the last axis, (d, K).
            slopes: `m_k = du/dx` at the knots, positive, (d, K).

        Raises:
            ValueError: the shapes differ, there are fewer than two knots, or knots, scores or
                slopes are out of order.
        """
        if not (knots.shape == scores.shape == slopes.shape) or knots.shape[-1] < 2:
            raise ValueError(
                f"knots, scores and slopes have shapes {knots.shape}, {scores.shape} and "
                f"{slopes.shape}; all must have one shape (d, K) with K at least 2"
            )
        if is_concrete(knots, scores, slopes):
            for name, steps in (
                ("knots", np.diff(knots)),
                ("scores", np.diff(scores)),
                ("slopes", np.asarray(slopes)),
            ):
                wrong = ~(np.isfinite(steps) & (steps > 0)).all(axis=1)
                if wrong.any():
                    rule = "positive" if name == "slopes" else "strictly increasing"
                    raise ValueError(
                        f"{name} must be finite and {rule}, but are not in columns "
                        f"{np.flatnonzero(wrong).tolist()}; to make them from data use "
                        "Gaussianise.fit(x)"
                    )
        self.knots = knots
        self.scores = scores
        self.slopes = slopes
        self.event_shape = (knots.shape[0],)

    @classmethod
    def fit(cls, x: ArrayInput, *, num_knots: SupportsIndex | None = None) -> "Gaussianise":
        """Fit the curves to the quantiles of each column.

        A column with few distinct values gets fewer knots: at most one per value, none closer
        than 1e-6 of the span of the outermost knots or than 16 units in the last place.

        Args:
            x: samples, (n, d).
            num_knots: knots of each column, at least 2; None for `n // 100`, within 6 to 40.

        Returns:
            The transform; computed in float64, stored in the dtype of `x`.

        Raises:
            ValueError: a column is constant to rounding, `num_knots` is less than 2, or `x` is
                not (n, d), not finite, or has fewer than two rows.
            TypeError: `x` does not hold real numbers, or `num_knots` is not an integer.
        """
        shape = np.shape(x)
        if len(shape) != 2 or shape[1] == 0:
            raise ValueError(f"x has shape {shape}; give rows (n, d): x.reshape(n, -1)")
        values, dtype = samples_to_fit(x)
        if num_knots is None:
            num_knots = default_num_knots(len(values))
        if isinstance(num_knots, bool) or not isinstance(num_knots, int | np.integer):
            raise TypeError(f"num_knots={num_knots!r} must be an integer or None")
        if num_knots < 2:
            raise ValueError(f"num_knots={num_knots} must be at least 2, or None")
        eps = float(jnp.finfo(dtype).eps)
        curves = [fit_column(column, int(num_knots), eps) for column in values.T]
        width = max(len(knots) for knots, _, _ in curves)
        padded = np.array([pad_knots(*curve, width) for curve in curves], dtype=dtype)
        return cls(*(jnp.asarray(padded[:, i]) for i in range(3)))

    def by_column(self) -> dict[str, Float[Array, " d"]]:
        """Median and outermost knots of each column, as `print(flow)` shows them."""
        median, _ = self.inverse(jnp.zeros_like(self.scores[:, 0]))
        return {"median": median, "first knot": self.knots[:, 0], "last knot": self.knots[:, -1]}

    def check(self, x: ArrayInput) -> None:
        """Raise ValueError unless `x`, (rows, d), is finite and of this event shape."""
        checked_rows(x, self.event_shape)

    def forward(self, x: Event) -> tuple[Event, Scalar]:
        """Map one sample to normal scores: `(u, log|det du/dx|)`."""
        check_event("x", x, self.event_shape, "transform.forward")
        s = self._segments(x, self.knots)
        inside = jnp.clip(x, s.x_min, s.x_max)
        t = (inside - s.x0) / s.width
        ratio = (t**2 + s.a * t * (1 - t)) / (1 + (s.a + s.b - 2) * t * (1 - t))
        beyond = s.slope_min * jnp.minimum(x - s.x_min, 0) + s.slope_max * jnp.maximum(
            x - s.x_max, 0
        )
        return s.y0 + s.height * ratio + beyond, jnp.sum(_log_slope(s, t))

    def inverse(self, u: Event) -> tuple[Event, Scalar]:
        """Map normal scores to data space, in closed form: `(x, log|det dx/du|)`."""
        check_event("u", u, self.event_shape, "transform.inverse")
        s = self._segments(u, self.scores)
        r = (jnp.clip(u, s.y_min, s.y_max) - s.y0) / s.height
        # (1 - c) t^2 + c t - r = 0. In this form the discriminant has no negative term, and the
        # root never subtracts nearly equal numbers.
        c = s.a - r * (s.a + s.b - 2)
        root = jnp.sqrt((c - 2 * r) ** 2 + 4 * r * (1 - r))
        t = jnp.where(c >= 0, 2 * r, root - c) / jnp.where(c >= 0, c + root, 2 * (1 - c))
        beyond = (
            jnp.minimum(u - s.y_min, 0) / s.slope_min + jnp.maximum(u - s.y_max, 0) / s.slope_max
        )
        return s.x0 + s.width * t + beyond, -jnp.sum(_log_slope(s, t))

    def _segments(self, value: Float[Array, " d"], edges: Float[Array, "d k"]) -> "_Segments":
        """The segment that contains each column's value; the tails use the outermost ones."""
        x, y, m = self.knots, self.scores, self.slopes
        # Counting the inner edges below the value needs no loop, unlike a binary search.
        index = jnp.sum(value[:, None] >= edges[:, 1:-1], axis=1, dtype=jnp.int32)
        columns = jnp.arange(len(value))
        x0, y0, m0 = (p[columns, index] for p in (x, y, m))
        x1, y1, m1 = (p[columns, index + 1] for p in (x, y, m))
        width, height = x1 - x0, y1 - y0
        return _Segments(
            x0=x0,
            y0=y0,
            width=width,
            height=height,
            a=m0 * (width / height),
            b=m1 * (width / height),
            x_min=x[:, 0],
            x_max=x[:, -1],
            y_min=y[:, 0],
            y_max=y[:, -1],
            slope_min=m[:, 0],
            slope_max=m[:, -1],
        )


class _Segments(NamedTuple):
    """One segment of each column's spline, and both tails; every entry has shape (d,)."""

    x0: Array
    y0: Array
    width: Array
    height: Array
    a: Array  # slopes at both ends, in units of height / width
    b: Array
    x_min: Array
    x_max: Array
    y_min: Array
    y_max: Array
    slope_min: Array
    slope_max: Array


def _log_slope(s: _Segments, t: Float[Array, " d"]) -> Float[Array, " d"]:
    """`log du/dx` at `t` in [0, 1] of the segment."""
    q = t * (1 - t)
    top = s.b * t**2 + 2 * q + s.a * (1 - t) ** 2
    return jnp.log(s.height) - jnp.log(s.width) + jnp.log(top) - 2 * jnp.log1p((s.a + s.b - 2) * q)
