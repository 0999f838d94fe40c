"""ODE solvers as pure functions: one generic Runge-Kutta stepper, four kinds of gradient."""

from jaxflow.ode.many import odeint_many
from jaxflow.ode.odeint import odeint, odeint_adjoint, odeint_checkpointed
from jaxflow.ode.settings import ODE, Adjoint, Checkpointed, Diffrax, Direct
from jaxflow.ode.status import SolveError, Stats, Status
from jaxflow.ode.tableaus import TABLEAUS, ButcherTableau
from jaxflow.ode.together import odeint_together

__all__ = [
    "ODE",
    "TABLEAUS",
    "Adjoint",
    "ButcherTableau",
    "Checkpointed",
    "Diffrax",
    "Direct",
    "SolveError",
    "Stats",
    "Status",
    "odeint",
    "odeint_adjoint",
    "odeint_checkpointed",
    "odeint_many",
    "odeint_together",
]
