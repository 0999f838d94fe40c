"""What may stand as a solver: a tableau's name, a tableau, or a solver of diffrax.

Diffrax is optional; it is not imported until one of its solvers, or its gradient, is asked for.
"""

import sys
from typing import Any

from jaxflow.ode.tableaus import TABLEAUS, ButcherTableau
from jaxflow.runtime.extras import import_extra

# Diffrax's own names of the methods that both have.
COUNTERPARTS = {
    "euler": "Euler",
    "midpoint": "Midpoint",
    "heun": "Heun",
    "bosh3": "Bosh3",
    "dopri5": "Dopri5",
    "tsit5": "Tsit5",
    "dopri8": "Dopri8",
}


def check_method(solver: Any) -> None:
    """Refuse what is no method.

    Raises:
        ValueError: an unknown name, or another kind of object.
    """
    if isinstance(solver, str):
        if solver not in TABLEAUS:
            raise ValueError(f"solver={solver!r} is unknown; choose one of {list(TABLEAUS)}")
    elif not (isinstance(solver, ButcherTableau) or is_diffrax(solver)):
        raise ValueError(
            f"solver={solver!r} is no method: give one of {list(TABLEAUS)}, a ButcherTableau, or "
            "a solver of diffrax such as diffrax.Kvaerno5()"
        )


def tableau_of(solver: Any) -> ButcherTableau:
    """The method's coefficients.

    Raises:
        TypeError: a solver of diffrax, which keeps its own.
    """
    if is_diffrax(solver):
        raise TypeError(f"solver={solver!r} is of diffrax and has no ButcherTableau")
    return TABLEAUS[solver] if isinstance(solver, str) else solver


def estimates_error(solver: Any) -> bool:
    """Whether the method can choose its own steps."""
    if is_diffrax(solver):
        return isinstance(solver, sys.modules["diffrax"].AbstractAdaptiveSolver)
    return tableau_of(solver).adaptive


def is_diffrax(solver: Any) -> bool:
    """Whether this is a solver of diffrax, which its owner then has imported."""
    diffrax = sys.modules.get("diffrax")
    return diffrax is not None and isinstance(solver, diffrax.AbstractSolver)


def as_diffrax(solver: Any) -> Any:
    """Diffrax's solver: the one given, or its own of that name.

    Raises:
        ImportError: diffrax is not installed.
        ValueError: it has no solver of that name.
    """
    diffrax = import_extra("diffrax", "diffrax", "gradient='diffrax' needs diffrax")
    if is_diffrax(solver):
        return solver
    if solver not in COUNTERPARTS:
        raise ValueError(
            f"solver={solver!r} has no counterpart in diffrax for gradient='diffrax': choose one "
            f"of {list(COUNTERPARTS)}, or a solver of diffrax such as diffrax.Tsit5()"
        )
    return getattr(diffrax, COUNTERPARTS[solver])()
