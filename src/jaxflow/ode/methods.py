"""The values that `ODE(solver=...)` takes: a tableau's name, a tableau, or a solver of diffrax.

diffrax is imported only for one of its solvers or for `gradient="diffrax"`.
"""

import sys
from typing import Any

from jaxflow.ode.tableaus import TABLEAUS, ButcherTableau
from jaxflow.runtime.checks import check_choice


def check_method(solver: Any) -> None:
    """Raise ValueError unless `solver` is a method or the name of one."""
    if isinstance(solver, str):
        check_choice("solver", solver, TABLEAUS)
    elif not (isinstance(solver, ButcherTableau) or is_diffrax(solver)):
        raise ValueError(
            f"solver={solver!r} is not a method: give one of {list(TABLEAUS)}, a ButcherTableau, "
            "or a solver of diffrax such as diffrax.Kvaerno5()"
        )


def tableau_of(solver: Any) -> ButcherTableau:
    """The method's coefficients; raises TypeError for a solver of diffrax."""
    if is_diffrax(solver):
        raise TypeError(f"solver={solver!r} is diffrax's and has no ButcherTableau")
    return TABLEAUS[solver] if isinstance(solver, str) else solver


def estimates_error(solver: Any) -> bool:
    """Whether the method can choose its own steps."""
    if is_diffrax(solver):
        return isinstance(solver, sys.modules["diffrax"].AbstractAdaptiveSolver)
    return tableau_of(solver).adaptive


def is_diffrax(solver: Any) -> bool:
    """Whether this is a solver of diffrax, which the caller must then have imported."""
    diffrax = sys.modules.get("diffrax")
    return diffrax is not None and isinstance(solver, diffrax.AbstractSolver)


def as_diffrax(solver: Any) -> Any:
    """A solver of diffrax: `solver` itself, or diffrax's method of that name."""
    import diffrax

    if is_diffrax(solver):
        return solver
    # Diffrax's Tsit5 is "tsit5" here, and so on.
    names = [name for name in TABLEAUS if hasattr(diffrax, name.capitalize())]
    if solver not in names:
        raise ValueError(
            f"solver={solver!r} has no counterpart in diffrax for gradient='diffrax': choose one "
            f"of {names}, or a solver of diffrax such as diffrax.Tsit5()"
        )
    return getattr(diffrax, solver.capitalize())()
