"""Which way to a gradient is right, and what each costs, on a flow of your own."""

import statistics
import time
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxflow.diagnostics.truth import EXACT
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow import check_arguments
from jaxflow.ode import ODE, SolveError, Status
from jaxflow.ode.settings import Gradient
from jaxflow.ode.status import MESSAGES
from jaxflow.trace import Exact
from jaxflow.training.trainable import combine_trainable, partition_trainable

REPEATS = 5
DRIFTED = "the way back drifted off the way there: checkpoints=8 may help, or another method"
# A method is as good as the best one where its error is at most twice as large.
AS_GOOD = 2.0


class GradientRow(NamedTuple):
    """One method's gradient of the mean negative log-density.

    Attributes:
        method: a value of `ODE(gradient=...)`.
        value: the loss, nats.
        error: of the gradient in all parameters, relative to the truth's norm; NaN where it
            failed.
        num_evals: evaluations of the field on the way there; the most that a row took.
        seconds: median time of a loss and its gradient, compiled.
        memory: bytes of intermediate results, as the compiler allots them; None where the
            platform does not tell.
        problem: why there is no gradient; empty where there is one.
    """

    method: str
    value: float
    error: float
    num_evals: int
    seconds: float
    memory: int | None
    problem: str = ""


class GradientReport(NamedTuple):
    """Every method's gradient beside the truth; `print` it for a table and a verdict.

    Attributes:
        rows: one a method.
        truth: the loss in float64 by a tight solve, nats.
        verdict: which method to use.
    """

    rows: tuple[GradientRow, ...]
    truth: float
    verdict: str

    def __str__(self) -> str:
        lines = [f"{'gradient':14}{'loss':>12}{'error':>10}{'evals':>7}{'ms':>9}{'MiB':>9}"]
        for row in self.rows:
            if row.problem:
                lines.append(f"{row.method:14}{row.problem}")
                continue
            memory = "-" if row.memory is None else f"{row.memory / 2**20:.1f}"
            lines.append(
                f"{row.method:14}{row.value:12.5f}{row.error:10.1e}{row.num_evals:7d}"
                f"{1e3 * row.seconds:9.1f}{memory:>9}"
            )
        return "\n".join([*lines, f"{'truth':14}{self.truth:12.5f}", self.verdict])


def gradients(
    flow: CNF,
    x: Any,
    cond: Any = None,
    *,
    methods: tuple[Gradient, ...] = get_args(Gradient),
    ode: ODE | None = None,
) -> GradientReport:
    """Compare the gradients of the mean negative log-density by every method.

    ```python
    print(gradients(flow, x[:256]))
    ```
    The truth is the gradient of a solve in float64 with tolerances of 1e-10, so the error of a
    method counts both the steps of its solve and its way back. The trace is exact throughout.

    Args:
        flow: the flow.
        x: (*batch, *event); a batch as in training.
        cond: conditions, (*batch, *condition), or one vector for all.
        methods: values of `ODE(gradient=...)` to compare.
        ode: settings of the solve; by default those of training, `flow.ode`.

    Raises:
        ValueError: an unknown method, bad rows.
        SolveError: the truth itself cannot be solved.
    """
    unknown = [method for method in methods if method not in get_args(Gradient)]
    if unknown or not methods:
        raise ValueError(f"methods={methods} must be some of {get_args(Gradient)}")
    ode = flow.ode if ode is None else ode
    flow = replace(flow, trace=Exact())
    with jax.enable_x64(True):
        # The flow is taken to the precision of its rows.
        run, inputs = _compiled(EXACT, flow, np.asarray(x, np.float64), cond)
        (value, (status, _)), truth = run(*inputs)
        value, status, truth = float(value), Status(int(status)), _flat(truth)
    if status != Status.SUCCESS:
        raise SolveError(f"the truth, {EXACT}, failed: {MESSAGES[status]}")
    rows = tuple(_row(method, ode, flow, x, cond, truth) for method in methods)
    return GradientReport(rows, value, _verdict(rows))


def _row(
    method: Gradient, ode: ODE, flow: CNF, x: Any, cond: Any, truth: np.ndarray
) -> GradientRow:
    """One method's gradient, or why there is none."""
    none = GradientRow(method, np.nan, np.nan, 0, np.nan, None)
    if method == "direct" and ode.adaptive and not ode.by_diffrax:
        return none._replace(problem="no reverse mode with adaptive steps: give num_steps")
    kept = {} if method == "adjoint" else {"backward": None, "checkpoints": 0}
    try:
        run, inputs = _compiled(replace(ode, gradient=method, **kept), flow, x, cond)
    except (ImportError, ValueError) as error:
        return none._replace(problem=str(error))
    (value, (status, num_evals)), found = jax.block_until_ready(run(*inputs))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run(*inputs))
        times.append(time.perf_counter() - start)
    error = float(np.linalg.norm(_flat(found) - truth) / np.linalg.norm(truth))
    problem = ""
    if status != Status.SUCCESS:
        problem = MESSAGES[Status(int(status))]
    elif not np.isfinite(error):
        problem = (
            DRIFTED
            if method == "adjoint"
            else "not finite: its numbers leave the range of the precision"
        )
    memory = run.memory_analysis()
    return GradientRow(
        method,
        float(value),
        error,
        int(num_evals),
        statistics.median(times),
        None if memory is None else memory.temp_size_in_bytes,
        problem,
    )


def _compiled(ode: ODE, flow: CNF, x: Any, cond: Any) -> tuple[Any, tuple[Any, ...]]:
    """The loss and its gradient, compiled, and what to call it with."""
    flow, rows, cond, _ = check_arguments(flow, x, cond, "x")
    trained, frozen = partition_trainable(replace(flow, ode=replace(ode, throw=False)))

    def loss(trained: Any, rows: Array, cond: Array | None) -> Any:
        flow = combine_trainable(trained, frozen)
        log_p, stats = flow.log_prob_rows(rows, cond, None, training=True)
        return -jnp.mean(log_p), (stats.status, stats.num_evals)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    inputs = trained, rows, cond
    return run.lower(*inputs).compile(), inputs


def _flat(tree: PyTree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def _verdict(rows: tuple[GradientRow, ...]) -> str:
    """Which method to use: the fastest of those that are as exact as any."""
    good = [row for row in rows if not row.problem]
    if not good:
        return "No method gives a gradient here; see why above."
    best = min(row.error for row in good)
    fast = min((row for row in good if row.error <= AS_GOOD * best), key=lambda row: row.seconds)
    small = min(good, key=lambda row: np.inf if row.memory is None else row.memory)
    words = f"Use ODE(gradient={fast.method!r}): off by {fast.error:.1e}, the fastest that exact."
    if small.memory is not None and fast.memory and small.memory < 0.5 * fast.memory:
        words += (
            f" Where memory is short, {small.method!r} takes {small.memory / fast.memory:.0%} of "
            f"it and is off by {small.error:.1e}."
        )
    return words
