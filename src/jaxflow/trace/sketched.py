"""Trace estimates that are exact on a subspace and stochastic on its complement."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.checks import check_count
from jaxflow.runtime.linear_algebra import orthonormal, solve_lower
from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.trace.fit import fit_sketch
from jaxflow.trace.hutchinson import draw_probes, probe_error, widening
from jaxflow.trace.products import inner

# The products of an orthonormal subspace differ from the identity by less, also when rounded to
# float32; a larger difference would bias the trace by about that share of it.
MOST_OFF = 1e-5


class HutchPlusPlus(eqx.Module):
    """Hutch++ for flows: exact on a subspace that all rows share, probes on its complement.

    With an orthonormal subspace Q and a reference Jacobian M, both shared by all rows,

    ```
    tr(J) = tr(M) + tr(Q^T (J - M) Q) + E[v^T (J - M) v],    v = (I - Q Q^T) g
    ```
    for any Q and M: they change the variance, not the mean. An estimate takes
    `rank + num_probes` Jacobian-vector products; M, a control variate, costs none. Meyer et al.
    (2021), "Hutch++: Optimal stochastic trace estimation", arXiv 2010.09649, for one matrix.

    Attributes:
        subspace: Q, orthonormal, (rank, *event); rank 0 for no subspace.
        reference: M, (*event, *event), such as the mean over pilot rows of the Jacobian
            integrated over [0, 1]; None for no control variate.
        num_probes: number of probes.
        law: distribution of the probes g.

    Raises:
        ValueError: the subspace is not orthonormal, or the reference has another shape.

    Example:
        ```python
        import dataclasses
        import jax
        from jaxflow import CNF, HutchPlusPlus, StandardNormal
        from jaxflow.dynamics import MLP

        flow = CNF(MLP(6, width=8, key=jax.random.key(0)), StandardNormal(6))
        x = jax.random.normal(jax.random.key(1), (32, 6))
        trace = HutchPlusPlus.from_jacobians(flow.integrated_jacobian(x), num_products=4)
        flow = dataclasses.replace(flow, trace=trace)
        ```
    """

    subspace: Float[Array, "rank *event"]
    reference: Float[Array, "..."] | None = None
    num_probes: int = eqx.field(static=True, default=4)
    law: Literal["rademacher", "gaussian"] = eqx.field(static=True, default="rademacher")

    def __check_init__(self) -> None:
        check_count("num_probes", self.num_probes)
        if not isinstance(self.subspace, np.ndarray | Array):
            return  # A placeholder, inside a transformation of trees.
        rank, shape = self.subspace.shape[0], self.subspace.shape[1:]
        if self.reference is not None and self.reference.shape != shape + shape:
            raise ValueError(
                f"reference has shape {self.reference.shape}; for a subspace of events of shape "
                f"{shape} give {shape + shape}"
            )
        if rank > math.prod(shape):
            raise ValueError(f"subspace has {rank} directions; events of shape {shape} have fewer")
        if rank and not isinstance(self.subspace, Tracer):
            flat = np.asarray(self.subspace, np.float64).reshape(rank, -1)
            off = float(np.max(np.abs(flat @ flat.T - np.eye(rank))))
            if not off < MOST_OFF:
                raise ValueError(
                    f"subspace must be orthonormal (rank, *event): its products differ from the "
                    f"identity by up to {off:.2g}, more than {MOST_OFF}, which would bias the "
                    "trace; in float32 or float64, with flat = subspace.reshape(len(subspace), "
                    "-1), write jnp.linalg.qr(flat.T)[0].T.reshape(subspace.shape)"
                )

    @classmethod
    def from_jacobians(
        cls,
        jacobians: Float[Array, "rows ..."],
        *,
        num_products: int,
        rank: int | None = None,
        reference: bool = True,
    ) -> "HutchPlusPlus":
        """Fit the subspace and the reference to integrated Jacobians of a few rows.

        The reference is their mean M. The subspace holds the leading eigenvectors of the mean of
        `S^2`, where `S = J + J^T` of `J - M`: the part of the variance that a shared subspace can
        remove. Probes are Rademacher's.

        Args:
            jacobians: (rows, *event, *event) from `flow.integrated_jacobian(x)`, with known
                values; 32 to 64 rows are enough.
            num_products: Jacobian-vector products an evaluation takes, `rank + num_probes`.
            rank: number of exact directions. None chooses the rank whose subspace, fitted to
                every other row, leaves the least variance on the remaining rows.
            reference: whether to use the mean as a control variate.

        Returns:
            The trace.

        Raises:
            ValueError: a number out of range, an odd number of event axes, or fewer than two rows.
        """
        return cls(*fit_sketch(jacobians, num_products, rank, reference=reference))

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Draw the vectors of one event; see `Estimator.draw`.

        Returns:
            Scaled directions of Q and projected probes, (rank + num_probes, *shape); the mean of
            their `v^T (J - M) v` estimates `tr(J - M)`.

        Raises:
            ValueError: the subspace is of events of another shape.
        """
        if shape != self.subspace.shape[1:]:
            raise ValueError(
                f"subspace has shape {self.subspace.shape}; for events of shape {shape} give "
                f"{('rank', *shape)}"
            )
        q = self.subspace.astype(dtype)
        rank, axes = q.shape[0], len(shape)
        g = draw_probes(key, self.num_probes, shape, dtype, self.law)
        if rank:
            event_axes = tuple(range(1, axes + 1))
            inside = jnp.tensordot(g, q, axes=(event_axes, event_axes))
            g = g - jnp.tensordot(inside, q, axes=1)
        count = rank + self.num_probes
        return jnp.concatenate([count**0.5 * q, (count / self.num_probes) ** 0.5 * g])

    def estimate(
        self, divergences: Float[Array, " k"], probes: Float[Array, "k ..."], span: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
        """Estimate the trace from one integral a vector; see `Estimator.estimate`.

        Returns:
            The estimate, and its standard error, None and infinite as for `Hutchinson`.
        """
        rank, size = self.subspace.shape[0], probes[0].size
        known = jnp.zeros((), divergences.dtype)
        if self.reference is not None:
            matrix = self.reference.astype(probes.dtype)
            axes = probes.ndim - 1
            images = jnp.tensordot(
                probes, matrix, axes=(tuple(range(1, axes + 1)), tuple(range(axes, 2 * axes)))
            )
            span = jnp.asarray(span, divergences.dtype)
            divergences = divergences - span * inner(probes, images)
            diagonal = jnp.diagonal(matrix.reshape(size, size)).astype(divergences.dtype)
            known = span * jnp.sum(diagonal)
        value = known + jnp.mean(divergences)
        if rank == size:
            return value, jnp.zeros((), divergences.dtype)
        share = self.num_probes / (rank + self.num_probes)
        return value, probe_error(share * divergences[rank:], self.law, size)


class XTrace(eqx.Module):
    """XTrace on the integrated Jacobian `A` of each row, without a pilot solve.

    Each probe is projected off the subspace that the images of the other probes span. With
    `Y = A Omega`, `Y_i` being Y without column i, and `P_i` the projection on the range of `Y_i`,

    ```
    t_i = tr(P_i A P_i) + c_i w_i^T (I - P_i) A (I - P_i) w_i,    estimate mean(t_i)
    ```
    where `c_i` restores the expected length of the projected probe. Two solves, for `Y` and for
    `A Q`, take `2 num_probes` Jacobian-vector products. The estimate is exact with
    `num_probes = d`, and good if each row's Jacobian is of low rank. Epperly, Tropp and Webber
    (2024), "XTrace", arXiv 2301.07825.

    Attributes:
        num_probes: k, at least 2 and at most d.

    Raises:
        ValueError: `num_probes` is below 2.

    Example:
        ```python
        import jax
        import jax.numpy as jnp
        from jaxflow import CNF, StandardNormal, XTrace
        from jaxflow.dynamics import MLP

        flow = CNF(MLP(5, width=8, key=jax.random.key(0)), StandardNormal(5), trace=XTrace(3))
        log_p = flow.log_prob(jnp.ones((4, 5)), key=jax.random.key(1))
        ```
    """

    num_probes: int = eqx.field(static=True, default=4)

    def __check_init__(self) -> None:
        check_count("num_probes", self.num_probes, 2)

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Draw the Gaussian probes Omega of one event; arguments as `Estimator.draw`.

        Returns:
            Probes, (num_probes, *shape).

        Raises:
            ValueError: more probes than the event has entries.
        """
        if self.num_probes > math.prod(shape):
            raise ValueError(
                f"num_probes={self.num_probes} is more than events of shape {shape} have entries; "
                "write trace='exact'"
            )
        return draw_probes(key, self.num_probes, shape, dtype, "gaussian")

    def basis(self, images: Float[Array, "k ..."]) -> Float[Array, "k ..."]:
        """Orthonormal basis Q of the span of the probes' images Y; both (k, *event)."""
        wide = images.reshape(len(images), -1).astype(accumulation_dtype(images.dtype))
        return orthonormal(wide.T).T.reshape(images.shape).astype(images.dtype)

    def estimate(
        self,
        probes: Float[Array, "k ..."],
        images: Float[Array, "k ..."],
        basis: Float[Array, "k ..."],
        basis_images: Float[Array, "k ..."],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Estimate the trace of A.

        Args:
            probes: Omega, (k, *event).
            images: `Y = A Omega`.
            basis: Q, from `basis(images)`.
            basis_images: `Z = A Q`.

        Returns:
            The estimate and its standard error, widened as that of `Hutchinson` and approximate
            since the probes' estimates share subspaces.
        """
        dtype = accumulation_dtype(probes.dtype)
        omega, y, q, z = (
            v.reshape(len(v), -1).astype(dtype).T for v in (probes, images, basis, basis_images)
        )
        size, count = omega.shape
        # s_i is the unit vector in range(Q) orthogonal to the other probes' images: R^T s_i is
        # along e_i, where Y = Q R. The diagonal is kept off zero for images of low rank.
        r = q.T @ y
        floor = jnp.maximum(jnp.finfo(dtype).eps * jnp.linalg.norm(r), 1e-30)
        diagonal = jnp.diagonal(r)
        diagonal = jnp.where(jnp.abs(diagonal) < floor, floor, diagonal)
        r = jnp.triu(r, 1) + jnp.diag(diagonal)
        s = jax.vmap(solve_lower, (None, 0), 1)(r.T, jnp.diag(diagonal))
        s = s / jnp.linalg.norm(s, axis=0, keepdims=True)
        inside = q.T @ omega
        inside = inside - s * jnp.sum(s * inside, axis=0, keepdims=True)
        outside = omega - q @ inside
        image = y - z @ inside
        length = jnp.sum(outside**2, axis=0)
        rest = (size - count + 1) * jnp.sum(outside * image, axis=0) / length
        compressed = q.T @ z
        known = jnp.trace(compressed) - jnp.sum(s * (compressed @ s), axis=0)
        each = known + rest
        error = widening(count, "gaussian") * jnp.std(each, ddof=1) / count**0.5
        return jnp.mean(each), error
