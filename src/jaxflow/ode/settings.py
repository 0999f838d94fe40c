"""The settings of a solve: the method, its steps and how gradients pass through it."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from jaxflow.ode.methods import as_diffrax, check_method, estimates_error, is_diffrax, tableau_of
from jaxflow.ode.tableaus import TABLEAUS, ButcherTableau
from jaxflow.runtime.checks import check_choice, check_count


@dataclass(frozen=True)
class Checkpointed:
    """The exact gradient of the discrete solve; the default.

    Adaptive solves store O(sqrt(max_steps)) states and recompute the stages; fixed steps store
    one state a step. See Zhuang et al. (2020), "Adaptive checkpoint adjoint method",
    arXiv 2006.02493.

    Example:
        ```python
        from jaxflow import ODE
        from jaxflow.ode import Checkpointed

        assert ODE(gradient=Checkpointed()) == ODE(gradient="checkpointed") == ODE()
        ```
    """


@dataclass(frozen=True, kw_only=True)
class Adjoint:
    """Pontryagin's adjoint equations (`jaxflow.ode.pontryagin`), solved backwards in O(1) memory.

    The backward solve recomputes the state. If the field contracts, the recomputed state drifts
    away from the true one, and the solve fails with `Status.DRIFTED`: raise `checkpoints` then.

    Attributes:
        checkpoints: how many states the forward solve stores, evenly spaced in time, for the
            backward solve to restart from; 0 stores none.
        backward: settings of the backward solve; None takes those of the forward solve.

    Raises:
        ValueError: `checkpoints` is negative, or `backward` is solved by diffrax.

    Example:
        ```python
        from jaxflow import ODE
        from jaxflow.ode import Adjoint

        ode = ODE(gradient=Adjoint(checkpoints=8, backward=ODE(rtol=1e-7, atol=1e-7)))
        ```
    """

    checkpoints: int = 0
    backward: "ODE | None" = None

    def __post_init__(self) -> None:
        check_count("checkpoints", self.checkpoints, 0)
        if self.backward is not None and self.backward.by_diffrax:
            raise ValueError(
                f"backward={self.backward} solves by diffrax; choose one of {list(TABLEAUS)}"
            )


@dataclass(frozen=True)
class Direct:
    """Automatic differentiation of the solver's own operations.

    Fixed steps allow forward and reverse mode of any order and store every stage. Adaptive steps
    allow forward mode only.

    Example:
        ```python
        import jax
        from jaxflow import ODE, odeint
        from jaxflow.ode import Direct

        ode = ODE(gradient=Direct(), solver="rk4", num_steps=10)
        jax.hessian(lambda y0: odeint(lambda t, y, args: y**2, y0, 0.0, 0.5, ode=ode)[0])(1.0)
        ```
    """


@dataclass(frozen=True)
class Diffrax:
    """Solve and differentiate by diffrax, with its `RecursiveCheckpointAdjoint`.

    The method must be one that diffrax has.

    Example:
        ```python
        from jaxflow import ODE
        from jaxflow.ode import Diffrax

        ode = ODE(gradient=Diffrax(), solver="dopri5")
        ```
    """


Gradient = Checkpointed | Adjoint | Direct | Diffrax
GradientName = Literal["checkpointed", "adjoint", "direct", "diffrax"]
GRADIENTS: dict[str, type[Gradient]] = {kind.__name__.lower(): kind for kind in get_args(Gradient)}


@dataclass(frozen=True, kw_only=True)
class ODE:
    """How to solve an ODE: the method, its steps, and how gradients pass through it.

    Steps are fixed if `num_steps` or `dt` is set, adaptive otherwise. Settings are hashable, and
    `dataclasses.replace` changes them.

    Attributes:
        solver: a name in `jaxflow.ode.TABLEAUS`, a `ButcherTableau`, or a solver of diffrax such
            as `diffrax.Kvaerno5()` for a stiff field.
        num_steps: number of fixed steps of equal size; with `save_at`, between two times.
        dt: largest size of fixed steps; the solve takes the fewest equal steps that reach `t1`.
        rtol: relative tolerance of adaptive steps.
        atol: absolute tolerance of adaptive steps.
        max_steps: largest number of adaptive steps, accepted and rejected.
        max_step: longest adaptive step, as a share of the interval from `t0` to `t1` (with
            `save_at`, between two times); None for no limit. A step can miss a change of the field
            that lasts less than a quarter of it: for one that lasts 0.01 of the interval, write
            `max_step=0.04`.
        gradient: `Checkpointed()`, `Adjoint(...)`, `Direct()` or `Diffrax()`; or its name in
            lower case, for the default settings.
        partial: whether a solve that reaches `max_steps` returns its last state, at time
            `stats.t` and with the status `MAX_STEPS`, instead of failing.
        throw: whether a failed solve raises `SolveError`; otherwise it returns NaN and a status.

    Raises:
        ValueError: a setting is out of range, or two settings contradict each other.

    Example:
        ```python
        from dataclasses import replace
        from jaxflow import ODE

        training = ODE(solver="dopri5", rtol=1e-4, atol=1e-4, gradient="adjoint")
        evaluation = replace(training, rtol=1e-6, atol=1e-6)
        ```
    """

    solver: str | ButcherTableau | Any = "tsit5"
    num_steps: int | None = None
    dt: float | None = None
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    max_step: float | None = None
    gradient: Gradient | GradientName = Checkpointed()
    partial: bool = False
    throw: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "gradient", _as_gradient(self.gradient))
        check_method(self.solver)
        if self.num_steps is not None:
            check_count("num_steps", self.num_steps)
        check_count("max_steps", self.max_steps)
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
        if self.max_step is not None:
            self._check_max_step(self.max_step)
        if self.adaptive and not estimates_error(self.solver):
            pairs = [name for name, tableau in TABLEAUS.items() if tableau.adaptive]
            raise ValueError(
                f"solver={self.solver!r} estimates no error, so it cannot choose its steps: write "
                f"ODE(solver={self.solver!r}, num_steps=...), or choose one of {pairs}"
            )
        if isinstance(self.gradient, Diffrax):
            as_diffrax(self.solver)
        if isinstance(self.gradient, Adjoint):
            self._check_adjoint(self.gradient)

    def _check_max_step(self, max_step: float) -> None:
        """Raise unless adaptive steps of at most `max_step` can reach `t1`."""
        if not 0 < max_step < float("inf"):
            raise ValueError(f"max_step={max_step} must be a positive share of the interval")
        if not self.adaptive:
            raise ValueError(
                f"max_step={max_step} limits adaptive steps, and num_steps={self.num_steps} "
                f"or dt={self.dt} fixes them: leave max_step out"
            )
        if max_step * self.max_steps < 1:
            raise ValueError(
                f"max_steps={self.max_steps} steps of at most max_step={max_step} of the interval "
                "do not reach t1: raise one of them"
            )

    def _check_adjoint(self, gradient: Adjoint) -> None:
        """Raise if the other settings rule out this adjoint."""
        pieces = gradient.checkpoints + 1
        if self.by_diffrax and gradient != Adjoint():
            raise ValueError(
                f"gradient={gradient} has settings of jaxflow's own solvers, and "
                f"solver={self.solver!r} is diffrax's: choose one of {list(TABLEAUS)}, or write "
                "gradient=Adjoint()"
            )
        if self.num_steps is not None and self.num_steps % pieces:
            raise ValueError(
                f"num_steps={self.num_steps} must be a multiple of {pieces}, to put "
                f"checkpoints={gradient.checkpoints} between equal numbers of steps"
            )
        if self.partial:
            raise ValueError(
                "partial=True may stop before t1, but the adjoint starts at t1: write "
                "ODE(gradient='checkpointed', partial=True)"
            )

    @property
    def by_diffrax(self) -> bool:
        """Whether diffrax does the solve."""
        return isinstance(self.gradient, Diffrax) or is_diffrax(self.solver)

    @property
    def tableau(self) -> ButcherTableau:
        """The method's coefficients; raises TypeError for a solver of diffrax."""
        return tableau_of(self.solver)

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.num_steps is None and self.dt is None

    @property
    def checkpoints(self) -> int:
        """Deprecated: read `ode.gradient.checkpoints`."""
        _warn("checkpoints")
        return self.gradient.checkpoints if isinstance(self.gradient, Adjoint) else 0

    @property
    def backward(self) -> "ODE | None":
        """Deprecated: read `ode.gradient.backward`."""
        _warn("backward")
        return self.gradient.backward if isinstance(self.gradient, Adjoint) else None

    @classmethod
    def upgrade_fields(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of this version, from those in a file of any version."""
        return _move_old_settings({"max_step": None} | fields)


def _as_gradient(gradient: Gradient | GradientName) -> Gradient:
    if isinstance(gradient, Gradient):
        return gradient
    check_choice("gradient", gradient, GRADIENTS, ", or Adjoint(checkpoints=..., backward=...)")
    return GRADIENTS[gradient]()


# For one release: settings of 0.1 that now belong to `Adjoint`.
_OLD = ("backward", "checkpoints")


def _warn(name: str) -> None:
    words = f"ODE's {name} is deprecated: it is a setting of ODE(gradient=Adjoint({name}=...))"
    warnings.warn(words, DeprecationWarning, stacklevel=3)


def _move_old_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of `ODE`, with those of `_OLD` moved into `gradient`."""
    old = {name: value for name, value in settings.items() if name in _OLD}
    if not old:
        return settings
    gradient = _as_gradient(settings.get("gradient", "checkpointed"))
    if isinstance(gradient, Adjoint):
        gradient = replace(gradient, **old)
    elif any(old.values()):
        name, value = next((name, value) for name, value in old.items() if value)
        raise ValueError(
            f"{name}={value} is a setting of the adjoint, and gradient={gradient}: write "
            f"ODE(gradient=Adjoint({name}=...)), or leave it out"
        )
    rest = {name: value for name, value in settings.items() if name not in _OLD}
    return rest | {"gradient": gradient}


def _accept_old_settings(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def accept(self: ODE, **settings: Any) -> None:
        old = [name for name in _OLD if name in settings]
        if old:
            _warn(" and ".join(old))
        init(self, **_move_old_settings(settings))

    return accept


ODE.__init__ = _accept_old_settings(ODE.__init__)
