"""Traces that are exact on what was learned of the Jacobian, and stochastic on the rest."""

import math
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.trace.hutchinson import check_count, draw_probes, standard_error
from jaxflow.trace.products import inner


class HutchPlusPlus(eqx.Module):
    """Hutch++ for flows: what all rows have in common is exact, probes are for the rest.

    With an orthonormal subspace Q and a reference Jacobian M, both shared by all rows,

    ```
    tr(J) = tr(M) + tr(Q^T (J - M) Q) + E[v^T (J - M) v],    v = (I - Q Q^T) g
    ```
    whatever Q and M are: they decide the variance, not the mean. An estimate takes
    `rank + num_probes` Jacobian-vector products; M costs none.

    ```python
    jacobians = flow.integrated_jacobian(x[:64])
    trace = jaxflow.HutchPlusPlus.from_jacobians(jacobians, num_products=16)
    flow = dataclasses.replace(flow, trace=trace)
    ```

    Meyer et al. (2021), "Hutch++: Optimal stochastic trace estimation", arXiv 2010.09649, for
    one matrix; the reference is a control variate.

    Attributes:
        subspace: Q, orthonormal, (rank, *event); rank 0 for none.
        reference: M, the mean over pilot rows of the Jacobian integrated over [0, 1],
            (*event, *event); None for none.
        num_probes: k.
        law: of the probes g.

    Raises:
        ValueError: a subspace that is not orthonormal, a reference of another shape.
    """

    subspace: Float[Array, "rank *event"]
    reference: Float[Array, "..."] | None = None
    num_probes: int = eqx.field(static=True, default=4)
    law: Literal["rademacher", "gaussian"] = eqx.field(static=True, default="rademacher")

    def __check_init__(self) -> None:
        check_count("num_probes", self.num_probes)
        if not isinstance(self.subspace, np.ndarray | Array):
            return  # A placeholder of a transformation of trees.
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
            if not off < 1e-2:
                raise ValueError(
                    f"subspace must be orthonormal (rank, *event): its products differ from the "
                    f"identity by up to {off:.2g}; write jnp.linalg.qr(subspace.T)[0].T"
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
        """Subspace and reference from integrated Jacobians of a few rows.

        The reference is their mean. The subspace holds the leading eigenvectors of the mean of
        `S^2`, `S = J + J^T` of what the reference leaves: the part of the variance that a
        shared subspace can remove. Probes are Rademacher's.

        Args:
            jacobians: (rows, *event, *event), as `flow.integrated_jacobian(x)` gives them; 32 to
                64 rows, known values.
            num_products: Jacobian-vector products an evaluation may take, `rank + num_probes`.
            rank: how many of them are exact directions; None chooses by the variance that is
                left for every second row, with a subspace of the others.
            reference: whether to use the mean as a control variate.

        Raises:
            ValueError: numbers out of range, an odd number of event axes, too few rows.
        """
        rows, shape = jacobians.shape[0], jacobians.shape[1:]
        event = shape[: len(shape) // 2]
        size = math.prod(event)
        if shape != event + event or rows < 2:
            raise ValueError(
                f"jacobians has shape {jacobians.shape}; give (rows, *event, *event) of two rows "
                "or more, as flow.integrated_jacobian(x) does"
            )
        check_count("num_products", num_products)
        most = min(size, num_products - 1)
        if rank is not None and (not isinstance(rank, int) or not 0 <= rank <= most):
            raise ValueError(
                f"rank={rank!r} must be a whole number from 0 to {most}: at least one of "
                f"num_products={num_products} is a probe"
            )
        s = jacobians.reshape(rows, size, size)
        s = s + jnp.swapaxes(s, 1, 2)
        if rank is None:
            fitted, held = s[::2], s[1::2]
            centre = jnp.mean(fitted, axis=0) if reference else jnp.zeros_like(s[0])
            q = _leading(fitted - centre[None])
            left = [
                _variance(q[:, :r], held - centre[None]) / (num_products - r)
                for r in range(most + 1)
            ]
            rank = int(np.argmin([float(v) for v in left]))
        mean = jnp.mean(s, axis=0) if reference else jnp.zeros_like(s[0])
        subspace = _leading(s - mean[None])[:, :rank].T.reshape(rank, *event)
        known = jnp.mean(jacobians, axis=0) if reference else None
        return cls(subspace, known, num_products - rank)

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """Vectors (rank + num_probes, *event) whose mean of `v^T J v` is the estimate.

        Raises:
            ValueError: the subspace is not one of such events.
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
        self, divergences: Float[Array, " k"], probes: Float[Array, "k ..."], span: Any
    ) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
        """The integral of the trace and its standard error, from one integral a vector.

        Args:
            divergences: integral of `v^T J v` for each vector of `draw`.
            probes: the vectors.
            span: length of the interval of time, negative backwards.
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
        return value, standard_error(share * divergences[rank:])


def _leading(s: Float[Array, "rows size size"]) -> Float[Array, "size size"]:
    """Eigenvectors of the mean of `S^2`, as columns, the leading one first."""
    return jnp.linalg.eigh(jnp.einsum("nij,njk->ik", s, s) / len(s))[1][:, ::-1]


def _variance(q: Float[Array, "size rank"], s: Float[Array, "rows size size"]) -> Array:
    """Mean variance of one Rademacher probe on the complement of Q."""
    away = jnp.eye(len(q), dtype=q.dtype) - q @ q.T
    rest = jnp.einsum("ij,njk,kl->nil", away, s, away)
    return jnp.mean(jnp.sum(jnp.triu(rest, 1) ** 2, axis=(1, 2)))


class XTrace(eqx.Module):
    """XTrace on the integrated Jacobian `A` of each row: exchangeable, no pilot.

    Each probe is tested against the subspace that the other probes' images span: with
    `Y = A Omega`, `Y_i` without column i, and `P_i` the projection on the range of `Y_i`,

    ```
    t_i = tr(P_i A P_i) + c_i w_i^T (I - P_i) A (I - P_i) w_i,    estimate mean(t_i)
    ```
    with `c_i` so that the projected probe has the length it should have. Two solves, one for
    `Y` and one for `A Q`, so `2 num_probes` Jacobian-vector products; exact with
    `num_probes = d`. It pays where each row's Jacobian is of low rank.

    Epperly, Tropp and Webber (2024), "XTrace", arXiv 2301.07825.

    Attributes:
        num_probes: k, at least 2, at most d.
    """

    num_probes: int = eqx.field(static=True, default=4)

    def __check_init__(self) -> None:
        if not isinstance(self.num_probes, int) or self.num_probes < 2:
            raise ValueError(f"num_probes={self.num_probes!r} must be at least 2, a whole number")

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """Gaussian probes Omega, (num_probes, *event).

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
        """Orthonormal Q that spans the images Y of the probes, (k, *event)."""
        wide = images.reshape(len(images), -1).astype(accumulation_dtype(images.dtype))
        return jnp.linalg.qr(wide.T)[0].T.reshape(images.shape).astype(images.dtype)

    def estimate(
        self,
        probes: Float[Array, "k ..."],
        images: Float[Array, "k ..."],
        basis: Float[Array, "k ..."],
        basis_images: Float[Array, "k ..."],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The trace of A and its standard error, from Omega, `Y = A Omega`, Q and `Z = A Q`.

        The probes' estimates share subspaces, so the standard error is itself an estimate.
        """
        dtype = accumulation_dtype(probes.dtype)
        omega, y, q, z = (
            v.reshape(len(v), -1).astype(dtype).T for v in (probes, images, basis, basis_images)
        )
        size, count = omega.shape
        # s_i, of length 1: the direction of range(Q) that the other probes' images leave out,
        # so R^T s_i is along e_i, Y = Q R. The diagonal is held off zero for images of low rank.
        r = q.T @ y
        floor = jnp.maximum(jnp.finfo(dtype).eps * jnp.linalg.norm(r), 1e-30)
        diagonal = jnp.diagonal(r)
        diagonal = jnp.where(jnp.abs(diagonal) < floor, floor, diagonal)
        r = jnp.triu(r, 1) + jnp.diag(diagonal)
        s = jnp.linalg.solve(r.T, jnp.diag(diagonal))
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
        return jnp.mean(each), jnp.std(each, ddof=1) / count**0.5
