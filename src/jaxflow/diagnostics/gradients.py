"""Compare the gradient strategies of a flow: accuracy, time, memory."""

import statistics
import time
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxflow.diagnostics.truth import REFERENCE
from jaxflow.flows.cnf import CNF
from jaxflow.flows.data_space import check_arguments
from jaxflow.ode import ODE, SolveError, Status
from jaxflow.ode.settings import Adjoint, GradientName
from jaxflow.ode.status import MESSAGES
from jaxflow.trace import Exact
from jaxflow.training.trainable import combine_trainable, partition_trainable

REPEATS = 5
DRIFTED = "the backward solve drifted off: use Adjoint(checkpoints=8), or another gradient"
NOT_FINITE = "not finite: its numbers leave the range of the precision"
# A method counts as accurate as the best one up to this factor.
AS_ACCURATE = 2.0


class GradientRow(NamedTuple):
    """One method's gradient of the mean negative log-density, the loss `value`, in nats.

    `error` is that of all parameters, relative to the norm of the reference; NaN if the method
    failed, and `problem` says why. `num_evals` is the largest number of field evaluations of a
    row's forward solve, `seconds` the median time of the compiled loss and gradient, and `memory`
    the bytes of intermediate results according to the compiler, None if it does not say.
    """

    method: str
    value: float
    error: float
    num_evals: int
    seconds: float
    memory: int | None
    problem: str = ""


class GradientReport(NamedTuple):
    """Every method's gradient compared with the reference; `print` it for a table and a verdict.

    Attributes:
        rows: one per method.
        truth: the loss of the reference in float64, in nats.
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
    x: ArrayLike,
    cond: ArrayLike | None = None,
    *,
    methods: tuple[GradientName, ...] = get_args(GradientName),
    ode: ODE | None = None,
) -> GradientReport:
    """Compare the gradients of the mean negative log-density by every method.

    The reference is a solve in float64 with tolerances of 1e-10, so the error of a method has two
    sources: the steps of its solve, and its backward pass. All methods use the exact trace.

    ```python
    import jax
    from jaxflow import CNF, ODE, StandardNormal
    from jaxflow.diagnostics import gradients
    from jaxflow.dynamics import MLP
    flow = CNF(MLP(2, width=8, depth=1, key=jax.random.key(0)), StandardNormal(2))
    x = jax.random.normal(jax.random.key(1), (16, 2))
    print(gradients(flow, x, methods=("checkpointed", "adjoint")))
    ```

    Args:
        flow: the flow.
        x: a batch as in training, (*batch, *event).
        cond: conditions, (*batch, *condition), or one vector for all.
        methods: names for `ODE(gradient=...)`. Default: all.
        ode: settings of the solve. Default: those of training, `flow.ode`.

    Raises:
        ValueError: an unknown method, or bad rows.
        SolveError: the reference solve failed.
    """
    names = get_args(GradientName)
    if not methods or not set(methods) <= set(names):
        raise ValueError(f"methods={methods} must be some of {names}")
    ode = flow.ode if ode is None else ode
    flow = replace(flow, trace=Exact())
    with jax.enable_x64(True):
        # The flow takes the dtype of its rows.
        run, inputs = _compile(REFERENCE, flow, np.asarray(x, np.float64), cond)
        (value, (status, _)), truth = run(*inputs)
        value, status, truth = float(value), Status(int(status)), _flatten(truth)
    if status != Status.SUCCESS:
        raise SolveError(f"the reference solve, {REFERENCE}, failed: {MESSAGES[status]}")
    rows = tuple(_measure(method, ode, flow, x, cond, truth) for method in methods)
    return GradientReport(rows, value, _verdict(rows))


def _measure(
    method: GradientName, ode: ODE, flow: CNF, x: Any, cond: Any, truth: np.ndarray
) -> GradientRow:
    """One method's gradient, or why there is none."""
    failed = GradientRow(method, np.nan, np.nan, 0, np.nan, None)
    if method == "direct" and ode.adaptive and not ode.by_diffrax:
        return failed._replace(problem="no reverse mode with adaptive steps: give num_steps")
    keep = method == "adjoint" and isinstance(ode.gradient, Adjoint)
    try:
        ode = ode if keep else replace(ode, gradient=method)
        run, inputs = _compile(ode, flow, x, cond)
    except (ImportError, ValueError) as error:
        return failed._replace(problem=str(error))
    (value, (status, num_evals)), gradient = jax.block_until_ready(run(*inputs))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run(*inputs))
        times.append(time.perf_counter() - start)
    error = float(np.linalg.norm(_flatten(gradient) - truth) / np.linalg.norm(truth))
    problem = ""
    if status != Status.SUCCESS:
        problem = MESSAGES[Status(int(status))]
    elif not np.isfinite(error):
        problem = DRIFTED if method == "adjoint" else NOT_FINITE
    memory = run.memory_analysis()
    size = None if memory is None else memory.temp_size_in_bytes
    seconds = statistics.median(times)
    return GradientRow(method, float(value), error, int(num_evals), seconds, size, problem)


def _compile(ode: ODE, flow: CNF, x: Any, cond: Any) -> tuple[Any, tuple[Any, ...]]:
    """The compiled loss and gradient, and the arguments to call it with."""
    flow, rows, cond, _ = check_arguments(flow, x, cond, "x")
    trained, frozen = partition_trainable(replace(flow, ode=replace(ode, throw=False)))

    def loss(trained: Any, rows: Array, cond: Array | None) -> Any:
        flow = combine_trainable(trained, frozen)
        log_p, stats = flow.log_prob_rows(rows, cond, None, training=True)
        return -jnp.mean(log_p), (stats.status, stats.num_evals)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return run.lower(trained, rows, cond).compile(), (trained, rows, cond)


def _flatten(tree: PyTree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def _verdict(rows: tuple[GradientRow, ...]) -> str:
    """Recommend the fastest of the accurate methods, and the one with the least memory."""
    good = [row for row in rows if not row.problem]
    if not good:
        return "No method gives a gradient here; the table says why."
    best = min(row.error for row in good)
    accurate = [row for row in good if row.error <= AS_ACCURATE * best]
    fast = min(accurate, key=lambda row: row.seconds)
    small = min(good, key=lambda row: np.inf if row.memory is None else row.memory)
    verdict = (
        f"Use ODE(gradient={fast.method!r}): error {fast.error:.1e}, the fastest within a factor "
        f"{AS_ACCURATE:g} of the smallest error."
    )
    if small.memory is not None and fast.memory and small.memory < 0.5 * fast.memory:
        verdict += (
            f" If memory is short: {small.method!r} needs {small.memory / fast.memory:.0%} of it, "
            f"with error {small.error:.1e}."
        )
    return verdict
