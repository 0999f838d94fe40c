"""The settings of a solve: one frozen, hashable dataclass."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxflow.ode.methods import (
    as_diffrax,
    check_method,
    estimates_error,
    is_diffrax,
    tableau_of,
)
from jaxflow.ode.tableaus import TABLEAUS, ButcherTableau
from jaxflow.runtime.checks import check_count

Gradient = Literal["checkpointed", "adjoint", "direct", "diffrax"]


@dataclass(frozen=True, kw_only=True)
class ODE:
    """How to solve an ODE: the method, its steps, and how gradients pass through it.

    Steps are fixed where `num_steps` or `dt` is given, adaptive otherwise.

    Attributes:
        solver: a name of `jaxflow.ode.TABLEAUS`, a `ButcherTableau` of your own, or a solver of
            diffrax: `diffrax.Kvaerno5()` for a stiff field.
        num_steps: fixed steps of equal size; between two times of `save_at`, if that is given.
        dt: fixed steps of about this size, rounded so that a whole number of them hits `t1`.
        rtol: relative tolerance of adaptive steps.
        atol: absolute tolerance of adaptive steps.
        max_steps: adaptive attempts, accepted and rejected, before the solve counts as failed.
        gradient: `"checkpointed"` is the exact gradient of the discrete solve, remembering
            states and recomputing stages; `"adjoint"` solves Pontryagin's equations backwards
            in O(1) memory; `"direct"` differentiates the solver's own operations (with
            adaptive steps forward mode only); `"diffrax"` solves and differentiates by diffrax.
        backward: settings of the backward solve of `"adjoint"`; None means these settings.
        checkpoints: moments, evenly spaced, at which `"adjoint"` keeps the state on its way and
            puts it right on its way back, where it would drift.
        partial: a solve that reaches `max_steps` returns the state where it stopped, at
            `stats.t`, with the status `MAX_STEPS`; otherwise it counts as failed.
        throw: a failed solve raises; otherwise it returns NaN and a status.

    Raises:
        ValueError: a setting is out of its range, or the settings contradict each other.
    """

    solver: str | ButcherTableau | Any = "tsit5"
    num_steps: int | None = None
    dt: float | None = None
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    gradient: Gradient = "checkpointed"
    backward: "ODE | None" = None
    checkpoints: int = 0
    partial: bool = False
    throw: bool = True

    def __post_init__(self) -> None:
        check_method(self.solver)
        for name, count in (("num_steps", self.num_steps), ("max_steps", self.max_steps)):
            # A fraction would silently be rounded up, to a solve that passes t1.
            if count is not None:
                check_count(name, count)
        if self.dt is not None and not self.dt > 0:
            raise ValueError(
                f"dt={self.dt} must be positive; to solve backwards in time, give t1 < t0"
            )
        if self.num_steps is not None and self.dt is not None:
            raise ValueError(
                f"num_steps={self.num_steps} and dt={self.dt} both set the steps; give one of them"
            )
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise ValueError(
                f"rtol={self.rtol} and atol={self.atol} must not be negative, nor both 0"
            )
        if self.gradient not in get_args(Gradient):
            raise ValueError(
                f"gradient={self.gradient!r} is unknown; choose one of {get_args(Gradient)}"
            )
        if self.gradient == "diffrax":
            as_diffrax(self.solver)
        if self.adaptive and not estimates_error(self.solver):
            pairs = [name for name, tableau in TABLEAUS.items() if tableau.adaptive]
            raise ValueError(
                f"solver={self.solver!r} estimates no error, so it cannot choose its steps: write "
                f"ODE(solver={self.solver!r}, num_steps=...), or choose one of {pairs}"
            )
        self._check_adjoint()

    def _check_adjoint(self) -> None:
        """Refuse settings of the adjoint where they would be left out of account."""
        if not isinstance(self.checkpoints, int) or self.checkpoints < 0:
            raise ValueError(f"checkpoints={self.checkpoints} must be a whole number, 0 for none")
        given = {"backward": self.backward, "checkpoints": self.checkpoints or None}
        for name, value in given.items():
            if value is None:
                continue
            if self.gradient != "adjoint":
                raise ValueError(
                    f"{name}={value} belongs to the adjoint and gradient={self.gradient!r} has no "
                    f"use for it: write ODE(gradient='adjoint', {name}=...), or leave it out"
                )
            if self.by_diffrax:
                raise ValueError(
                    f"{name}={value} is for jaxflow's own solvers, and solver={self.solver!r} is "
                    f"of diffrax: choose one of {list(TABLEAUS)}, or leave it out"
                )
        if self.num_steps is not None and self.num_steps % (self.checkpoints + 1):
            raise ValueError(
                f"num_steps={self.num_steps} cannot be shared out evenly between "
                f"checkpoints={self.checkpoints}: make it a multiple of {self.checkpoints + 1}"
            )
        if self.gradient == "adjoint" and self.partial:
            raise ValueError(
                "partial=True stops where the adjoint, which starts at t1, does not: write "
                "ODE(gradient='checkpointed', partial=True)"
            )
        if self.backward is not None and self.backward.by_diffrax:
            raise ValueError(
                f"backward={self.backward} solves by diffrax; choose one of {list(TABLEAUS)}"
            )

    @property
    def by_diffrax(self) -> bool:
        """Whether diffrax does the solve."""
        return self.gradient == "diffrax" or is_diffrax(self.solver)

    @property
    def tableau(self) -> ButcherTableau:
        """The method's coefficients; a solver of diffrax has its own."""
        return tableau_of(self.solver)

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.num_steps is None and self.dt is None
