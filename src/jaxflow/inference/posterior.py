"""`Posterior`: a flow of parameters given observations, confined to the prior's support."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.error import LogDensity
from jaxflow.flows.ensemble import members
from jaxflow.inference.maximum import ascend
from jaxflow.inference.priors import Prior
from jaxflow.ode import Status
from jaxflow.runtime.checks import check_count, check_rows
from jaxflow.training import History

# Draws that measure the mass outside a prior that is no box, and the key of these draws.
LEAK_DRAWS, LEAK_SEED = 4096, 0
# Most batches that are drawn until enough rows lie inside.
MOST_BATCHES = 50
# Draws from which the search for a maximum starts, and starts of it.
MAP_DRAWS, MAP_STARTS = 2000, 8


class Inside(NamedTuple):
    """Share of a flow's mass inside the prior's support, with its standard error."""

    share: float
    standard_error: float


@dataclass(frozen=True)
class Posterior:
    """The density `q(theta | x)` of parameters given an observation, 0 outside the prior.

    `fit_posterior` makes it. A prior whose support is a box, a half space or the entire space
    needs no correction: the flow has no mass outside. For others, `q` is the flow's density
    inside, divided by its mass there (`inside`), and draws outside are drawn again.

    ```python
    import jax
    import numpy as np
    from jaxflow.inference import fit_posterior

    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (300, 1))
    x = theta + 0.1 * rng.normal(size=(300, 1))
    key = jax.random.key(0)
    posterior = fit_posterior(theta, x, prior=(-1.0, 1.0), key=key, steps=100)
    draws = posterior.sample(key, 10, x[0])
    print(posterior.log_prob(draws, x[0]))
    ```

    Attributes:
        flow: the conditional flow, `flow.log_prob(theta, x)`; `jaxflow.save` writes it, and
            `Posterior(jaxflow.load(path), as_prior(prior, d))` reads it.
        prior: the prior.
        names: names of the parameters, or None.
        left_out: simulations that had NaN or infinity and were not used.
        history: the columns of `jaxflow.fit`, or None.
        effective: effective number of simulations, `(sum w)^2 / sum w^2` of their weights, or
            None.
    """

    flow: Any
    prior: Prior
    names: tuple[str, ...] | None = None
    left_out: int = 0
    history: History | None = None
    effective: float | None = None

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return int(self.flow.event_shape[0])

    def sample(self, key: PRNGKeyArray, num: int, x_obs: Any) -> Float[Array, "num d"]:
        """Draw parameters, all inside the prior's support.

        Args:
            key: random key.
            num: number of draws.
            x_obs: one observation, (k,) or as `embed` takes it.

        Returns:
            Draws, (num, d).

        Raises:
            ValueError: a bad observation, or too little of the flow lies inside the prior.
            SolveError: a solve failed.
        """
        return self.sample_and_log_prob(key, num, x_obs, with_log_prob=False)[0]

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num: int, x_obs: Any, *, with_log_prob: bool = True
    ) -> tuple[Float[Array, "num d"], Float[Array, " num"] | None]:
        """Draw parameters and their log-densities by one solve; arguments as for `sample`."""
        check_count("num", num)
        cond = self.checked(x_obs)
        rows = self._for_rows(cond, num)
        kept, values, count = [], [], 0
        for batch_key in jax.random.split(key, MOST_BATCHES):
            if with_log_prob:
                theta, value = self.flow.sample_and_log_prob(batch_key, num, rows)
            else:
                theta, value = self.flow.sample(batch_key, num, rows), np.zeros(num)
            inside = self._is_inside(theta)
            kept.append(theta[inside])
            values.append(value[inside])
            count += int(inside.sum())
            if count >= num:
                break
        else:
            raise ValueError(
                f"{count} of {MOST_BATCHES * num} draws lie inside the prior: the flow at x_obs "
                "has nearly all of its mass outside, so x_obs is unlike the simulations"
            )
        theta = jnp.concatenate(kept)[:num]
        if not with_log_prob:
            return theta, None
        return theta, jnp.concatenate(values)[:num] - float(np.log(self._shares(cond)[0]))

    def log_prob(self, theta: Any, x_obs: Any) -> Float[Array, " n"]:
        """Log-density `log q(theta | x_obs)` in nats; -inf outside the prior's support.

        Args:
            theta: parameters, (n, d).
            x_obs: one observation, or one for each row, (n, k).

        Returns:
            Log-densities, (n,).

        Raises:
            ValueError: shapes that do not fit, or NaN.
            SolveError: the solve of a row failed.
        """
        theta, cond = self._rows(theta), self.checked(x_obs)
        value = self.flow.log_prob(theta, self._for_rows(cond, len(theta)))
        log_share = jnp.asarray(np.log(self._shares(cond)[0]), value.dtype)
        return jnp.where(jnp.asarray(self._is_inside(theta)), value - log_share, -jnp.inf)

    def log_prob_with_error(
        self, theta: Any, x_obs: Any, *, atol_nats: float | None = None
    ) -> LogDensity:
        """Log-density with an estimate of its numerical error, as `CNF.log_prob_with_error`.

        Where the flow has mass outside the prior, two standard errors of the logarithm of the mass
        inside are added to `ode_error`.
        """
        theta, cond = self._rows(theta), self.checked(x_obs)
        rows = self._for_rows(cond, len(theta))
        result = self.flow.log_prob_with_error(theta, rows, atol_nats=atol_nats)
        outside = ~jnp.asarray(self._is_inside(theta))
        share, se = self._shares(cond)
        log_share, added = (jnp.asarray(e, float) for e in (np.log(share), 2 * se / share))
        error, refined = result.ode_error, result.refined
        return result._replace(
            value=jnp.where(outside, -jnp.inf, result.value - log_share),
            refined=None if refined is None else jnp.where(outside, -jnp.inf, refined - log_share),
            ode_error=None if error is None else jnp.where(outside, 0.0, error + added),
            status=jnp.where(outside, int(Status.OUTSIDE), result.status),
        )

    def inside(self, x_obs: Any, num: int = LEAK_DRAWS) -> Inside:
        """Share of the flow's mass inside the prior's support, from draws.

        It is exactly 1 if the prior fills its box. `sample` and `log_prob` correct for the mass
        outside.

        Raises:
            ValueError: none of `num` draws lies inside.
        """
        if self.prior.fills_box:
            return Inside(1.0, 0.0)
        cond = self._for_rows(self.checked(x_obs), num)
        draws = self.flow.sample(jax.random.key(LEAK_SEED), num, cond)
        share = float(self._is_inside(draws).mean())
        if not share:
            raise ValueError(
                f"none of {num} draws lies inside the prior: x_obs is unlike the simulations"
            )
        return Inside(share, float(np.sqrt(share * (1 - share) / num)))

    def map(self, x_obs: Any, *, key: PRNGKeyArray | None = None) -> Float[Array, " d"]:
        """The parameters of the highest density (maximum a posteriori).

        Gradient ascent from the best of many draws, on the density in the units of `theta`. It
        lies inside the prior; a density that rises to the prior's edge has its maximum there.
        `key` is for the draws; None for a fixed one.
        """
        key = jax.random.key(0) if key is None else key
        draws, value = self.sample_and_log_prob(key, MAP_DRAWS, x_obs)
        best = np.argsort(np.asarray(value))[-MAP_STARTS:]
        spread = jnp.asarray(np.asarray(draws).std(axis=0))
        conds = self._for_rows(self.checked(x_obs), MAP_STARTS)
        limits = self.prior.lower, self.prior.upper
        theta = jnp.concatenate(
            [draws[best], ascend(self.flow, draws[best], conds, spread, limits)]
        )
        return theta[int(np.argmax(np.asarray(self.log_prob(theta, x_obs))))]

    def credible_level(
        self, theta: Any, x_obs: Any, *, key: PRNGKeyArray, num: int = 1000
    ) -> Float[np.ndarray, " n"]:
        """Probability of the smallest highest-density region that holds each row.

        The share of draws that have a higher density than the row: a row with level 0.9 lies on
        the edge of the 90 % region. Over pairs of the joint density the levels of the true
        parameters are uniform if the posterior is right (expected coverage).

        Args:
            theta: parameters, (n, d).
            x_obs: one observation, or one for each row, (n, k); then each row has its own draws.
            key: random key.
            num: number of draws for each observation.

        Returns:
            Levels in [0, 1], (n,).
        """
        theta = self._rows(theta)
        value = np.asarray(self.log_prob(theta, x_obs))
        cond = self.checked(x_obs)
        if cond.ndim == self._cond_ndim:
            _, drawn = self.sample_and_log_prob(key, num, x_obs)
            return (np.asarray(drawn)[:, None] > value).mean(axis=0)
        conds = jnp.broadcast_to(cond, (num, *cond.shape))
        draws, drawn = self.flow.sample_and_log_prob(key, (num, len(cond)), conds)
        rows = np.asarray(draws).reshape(-1, self.dim)
        inside = self._is_inside(rows).reshape(num, len(cond))
        higher = (np.asarray(drawn) - np.log(self._shares(cond)[0]) > value) & inside
        return higher.sum(axis=0) / np.maximum(inside.sum(axis=0), 1)

    def to_arviz(self, key: PRNGKeyArray, num: int, x_obs: Any) -> Any:
        """Draws as an `arviz.InferenceData`; arguments as for `sample`."""
        from jaxflow.interop.arviz import to_arviz

        return to_arviz(self.sample(key, num, x_obs), self._columns)

    def corner(
        self, key: PRNGKeyArray, x_obs: Any, num: int = 2000, *, reference: Any = None
    ) -> Any:
        """Draw `jaxflow.plotting.corner` of `num` draws, before `reference` rows (m, d)."""
        from jaxflow.plotting import corner

        draws = np.asarray(self.sample(key, num, x_obs))
        labels = ("posterior", "reference")
        return corner(draws, reference, columns=self._columns, labels=labels)

    def checked(self, x_obs: Any) -> Array:
        """One observation, or several, as an array.

        Raises:
            ValueError: NaN or infinity.
        """
        x = np.asarray(x_obs, np.float64)
        check_rows(x.reshape(1, -1), "x_obs")
        return jnp.asarray(x, jnp.result_type(float))

    @property
    def _columns(self) -> list[str]:
        return list(self.names or [f"theta{i}" for i in range(self.dim)])

    @property
    def _cond_ndim(self) -> int:
        encoder = getattr(getattr(members(self.flow)[0], "field", None), "encoder", None)
        return len(getattr(encoder, "shape", (0,)))

    def _rows(self, theta: Any) -> Any:
        if np.ndim(theta) != 2 or np.shape(theta)[1] != self.dim:
            raise ValueError(
                f"theta has shape {np.shape(theta)}; give rows (n, {self.dim}): for one vector "
                "write theta[None]"
            )
        return theta

    def _for_rows(self, cond: Array, num: int) -> Array:
        """An observation for each of `num` rows."""
        if cond.ndim != self._cond_ndim:
            return cond
        return jnp.broadcast_to(cond, (num, *cond.shape))

    def _is_inside(self, theta: Any) -> np.ndarray:
        inside = self.prior.in_box(theta)
        if self.prior.fills_box or self.prior.log_density is None:
            return inside
        return inside & np.isfinite(self.prior.log_prob(theta))

    def _shares(self, cond: Array) -> tuple[np.ndarray, np.ndarray]:
        """Mass inside and its standard error: () for one observation, (n,) for several."""
        if self.prior.fills_box or cond.ndim == self._cond_ndim:
            share, se = self.inside(cond)
            return np.asarray(share), np.asarray(se)
        each = np.array([self.inside(one) for one in cond])
        return each[:, 0], each[:, 1]
