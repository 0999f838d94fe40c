"""The settings of a solve: one frozen, hashable dataclass."""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxflow.ode.tableaus import TABLEAUS, ButcherTableau

Gradient = Literal["checkpointed", "adjoint", "direct"]


@dataclass(frozen=True, kw_only=True)
class ODE:
    """How to solve an ODE: the method, its steps, and how gradients pass through it.

    Steps are fixed where `num_steps` or `dt` is given, adaptive otherwise.

    Attributes:
        solver: a name of `jaxflow.ode.TABLEAUS`, or a `ButcherTableau` of your own.
        num_steps: fixed steps of equal size; between two times of `save_at`, if that is given.
        dt: fixed steps of about this size, rounded so that a whole number of them hits `t1`.
        rtol: relative tolerance of adaptive steps.
        atol: absolute tolerance of adaptive steps.
        max_steps: adaptive attempts, accepted and rejected, before the solve counts as failed.
        gradient: `"checkpointed"` is the exact gradient of the discrete solve, remembering
            states and recomputing stages; `"adjoint"` solves Pontryagin's equations backwards
            in O(1) memory; `"direct"` differentiates the solver's own operations (with
            adaptive steps forward mode only).
        backward: settings of the backward solve of `"adjoint"`; None means these settings.
        throw: a failed solve raises; otherwise it returns NaN and a status.

    Raises:
        ValueError: a setting is out of its range, or the settings contradict each other.
    """

    solver: str | ButcherTableau = "tsit5"
    num_steps: int | None = None
    dt: float | None = None
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    gradient: Gradient = "checkpointed"
    backward: "ODE | None" = None
    throw: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.solver, str) and self.solver not in TABLEAUS:
            raise ValueError(f"solver={self.solver!r} is unknown; choose one of {list(TABLEAUS)}")
        for name, count in (("num_steps", self.num_steps), ("max_steps", self.max_steps)):
            # A fraction would silently be rounded up, to a solve that passes t1.
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ValueError(f"{name}={count} must be a whole number of at least 1")
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
        if self.adaptive and not self.tableau.adaptive:
            pairs = [name for name, tableau in TABLEAUS.items() if tableau.adaptive]
            raise ValueError(
                f"solver={self.solver!r} estimates no error, so it cannot choose its steps: write "
                f"ODE(solver={self.solver!r}, num_steps=...), or choose one of {pairs}"
            )

    @property
    def tableau(self) -> ButcherTableau:
        """The method's coefficients."""
        return TABLEAUS[self.solver] if isinstance(self.solver, str) else self.solver

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.num_steps is None and self.dt is None
