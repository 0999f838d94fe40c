"""Explicit Runge-Kutta methods as data: one Butcher tableau each, one stepper for all."""

import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class ButcherTableau:
    """Coefficients of an explicit Runge-Kutta method with `len(b)` stages.

    ```
    k_i = f(t + c_i h, y + h sum_j a_ij k_j)
    y1  = y + h sum_i b_i k_i
    err = h sum_i e_i k_i
    ```

    Attributes:
        a: strictly lower triangular rows; row `i` has `i` entries.
        b: weights of the solution.
        c: nodes.
        order: order of convergence of the solution.
        error: `b` minus the weights of the embedded method; None for a method without one, which
            takes fixed steps only.
        error_order: order of the embedded method, which sets the controller's exponent.
        fsal: whether the last stage is `f(t + h, y1)`, the next step's first stage.

    Example:
        ```python
        from jaxflow.ode import ODE, ButcherTableau

        ralston = ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0.0, 2 / 3), order=2)
        ode = ODE(solver=ralston, num_steps=20)
        ```
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    order: int
    error: tuple[float, ...] | None = None
    error_order: int = 0
    fsal: bool = False

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its own error."""
        return self.error is not None

    @property
    def evals_per_step(self) -> int:
        """Evaluations of `f` a step; a first-same-as-last method saves one."""
        return len(self.b) - self.fsal


def _row(text: str) -> tuple[float, ...]:
    return tuple(float(Fraction(number)) for number in text.split())


def _rows(*texts: str) -> tuple[tuple[float, ...], ...]:
    """The rows of `a`, of which the first is empty."""
    return ((), *map(_row, texts))


def _pair(a: tuple[str, ...], b: str, c: str, embedded: str, **settings: Any) -> ButcherTableau:
    """A method whose error is `b` minus the weights of the embedded one."""
    error = tuple(map(operator.sub, _row(b), _row(embedded)))
    return ButcherTableau(_rows(*a), _row(b), _row(c), error=error, **settings)


EULER = ButcherTableau(a=((),), b=(1.0,), c=(0.0,), order=1)

MIDPOINT = ButcherTableau(a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2), order=2)

# Heun's second-order method; Euler's is embedded in it.
HEUN = ButcherTableau(
    a=((), (1.0,)),
    b=(1 / 2, 1 / 2),
    c=(0.0, 1.0),
    order=2,
    error=(-1 / 2, 1 / 2),
    error_order=1,
)

# Kutta (1901), the classical fourth-order method.
RK4 = ButcherTableau(
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    order=4,
)

# Bogacki and Shampine (1989), "A 3(2) pair of Runge-Kutta formulas".
BOSH3 = ButcherTableau(
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    order=3,
    error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    error_order=2,
    fsal=True,
)

# Dormand and Prince (1980), "A family of embedded Runge-Kutta formulae".
DOPRI5 = _pair(
    a=(
        "1/5",
        "3/40 9/40",
        "44/45 -56/15 32/9",
        "19372/6561 -25360/2187 64448/6561 -212/729",
        "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
        "35/384 0 500/1113 125/192 -2187/6784 11/84",
    ),
    b="35/384 0 500/1113 125/192 -2187/6784 11/84 0",
    c="0 1/5 3/10 4/5 8/9 1 1",
    embedded="5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40",
    order=5,
    error_order=4,
    fsal=True,
)

# Tsitouras (2011), "Runge-Kutta pairs of order 5(4) satisfying only the first column
# simplifying assumption".
TSIT5 = ButcherTableau(
    a=_rows(
        "0.161",
        "-0.008480655492356989 0.335480655492357",
        "2.8971530571054935 -6.359448489975075 4.3622954328695815",
        "5.325864828439257 -11.748883564062828 7.4955393428898365 -0.09249506636175525",
        (
            "5.86145544294642 -12.92096931784711 8.159367898576159 -0.071584973281401 "
            "-0.028269050394068383"
        ),
        (
            "0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 "
            "2.324710524099774"
        ),
    ),
    b=_row(
        "0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 "
        "2.324710524099774 0"
    ),
    c=_row("0 0.161 0.327 0.9 0.9800255409045097 1 1"),
    error=_row(
        "-0.001780011052225777 -0.0008164344596567469 0.007880878010261995 "
        "-0.1447110071732629 0.5823571654525552 -0.45808210592918697 1/66"
    ),
    order=5,
    error_order=4,
    fsal=True,
)

# Prince and Dormand (1981), "High order embedded Runge-Kutta formulae": RK8(7)13M.
DOPRI8 = _pair(
    a=(
        "1/18",
        "1/48 1/16",
        "1/32 0 3/32",
        "5/16 0 -75/64 75/64",
        "3/80 0 0 3/16 3/20",
        "29443841/614563906 0 0 77736538/692538347 -28693883/1125000000 23124283/1800000000",
        (
            "16016141/946692911 0 0 61564180/158732637 22789713/633445777 545815736/2771057229 "
            "-180193667/1043307555"
        ),
        (
            "39632708/573591083 0 0 -433636366/683701615 -421739975/2616292301 "
            "100302831/723423059 790204164/839813087 800635310/3783071287"
        ),
        (
            "246121993/1340847787 0 0 -37695042795/15268766246 -309121744/1061227803 "
            "-12992083/490766935 6005943493/2108947869 393006217/1396673457 123872331/1001029789"
        ),
        (
            "-1028468189/846180014 0 0 8478235783/508512852 1311729495/1432422823 "
            "-10304129995/1701304382 -48777925059/3047939560 15336726248/1032824649 "
            "-45442868181/3398467696 3065993473/597172653"
        ),
        (
            "185892177/718116043 0 0 -3185094517/667107341 -477755414/1098053517 "
            "-703635378/230739211 5731566787/1027545527 5232866602/850066563 "
            "-4093664535/808688257 3962137247/1805957418 65686358/487910083"
        ),
        (
            "403863854/491063109 0 0 -5068492393/434740067 -411421997/543043805 "
            "652783627/914296604 11173962825/925320556 -13158990841/6184727034 "
            "3936647629/1978049680 -160528059/685178525 248638103/1413531060 0"
        ),
    ),
    b=(
        "14005451/335480064 0 0 0 0 -59238493/1068277825 181606767/758867731 561292985/797845732 "
        "-1041891430/1371343529 760417239/1151165299 118820643/751138087 -528747749/2220607170 "
        "1/4"
    ),
    c=(
        "0 1/18 1/12 1/8 5/16 3/8 59/400 93/200 5490023248/9719169821 13/20 1201146811/1299019798 "
        "1 1"
    ),
    embedded=(
        "13451932/455176623 0 0 0 0 -808719846/976000145 1757004468/5645159321 "
        "656045339/265891186 -3867574721/1518517206 465885868/322736535 53011238/667516719 2/45 0"
    ),
    order=8,
    error_order=7,
)

TABLEAUS: dict[str, ButcherTableau] = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": HEUN,
    "rk4": RK4,
    "bosh3": BOSH3,
    "dopri5": DOPRI5,
    "tsit5": TSIT5,
    "dopri8": DOPRI8,
}
"""Runge-Kutta methods by name, for `ODE(solver=...)`."""
