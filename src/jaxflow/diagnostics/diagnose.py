"""An honest examination of a trained flow on rows of data."""

from dataclasses import replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.diagnostics.diagnosis import Diagnosis
from jaxflow.diagnostics.findings import generator, on_host
from jaxflow.diagnostics.mass import measure_mass
from jaxflow.diagnostics.normality import Normality, examine_normality
from jaxflow.diagnostics.round_trip import examine_round_trip
from jaxflow.diagnostics.slope import examine_slope
from jaxflow.diagnostics.solves import Solves, check_atol, examine_solves, without_raising
from jaxflow.diagnostics.truth import compare_with_truth
from jaxflow.diagnostics.two_sample import C2ST, MMD, c2st, mmd
from jaxflow.flows.cnf import CNF
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.flows.flow import check_arguments, with_transform
from jaxflow.runtime.checks import check_count
from jaxflow.transforms import without_noise

# Where fewer rows succeed, a test of those that did says nothing of all.
SURVIVORS = 0.99

T = TypeVar("T")


def diagnose(
    flow: Any,
    data: Any,
    cond: Any = None,
    *,
    key: PRNGKeyArray,
    num_rows: int = 1000,
    num_samples: int = 1000,
    atol_nats: float = 1e-2,
    level: float = 1e-3,
    row_numbers: Any = None,
) -> Diagnosis:
    """Examine a flow on rows of data: how far can its log-densities and samples be trusted?

    ```python
    found = diagnose(flow, held_out, key=jax.random.key(0))
    print(found)  # a table, then the verdict
    ```
    Measured are the solves of the rows (failures, evaluations, stated errors), the true error
    of some log-densities by float64, the mass of the density, the way to the base and back, the
    field's Lipschitz constant along trajectories, the encoded data against a standard normal
    base, and samples against the data by two tests (`jaxflow.diagnostics.two_sample`). A failed
    row is counted and named; it raises nothing. What cannot be measured is said to be
    unknown, never right.

    Rows should not have trained the flow: of those that did, tests say too much good. A test
    that finds no difference says that there is none that so many rows could show. With correct
    flows each of the five tests speaks up with probability `level`.

    Args:
        flow: a `CNF` or a `CouplingFlow`.
        data: rows in data units, (n, *event).
        cond: conditions, (n, *condition), or one vector for all. The mass is then that of the
            first row's condition; samples are drawn at the conditions of the rows.
        key: for the choice of rows, samples, probes and tests.
        num_rows: rows to examine at most, chosen at random.
        num_samples: samples to draw, and rows to test them against, at most.
        atol_nats: error of a log-density that counts as good, nats.
        level: p-values below this count as a difference.
        row_numbers: what the rows are called, n whole numbers; 0, 1, 2, ... by default.

    Returns:
        The numbers, and a verdict in plain sentences.

    Raises:
        ValueError: no rows, NaN or infinite rows (named), wrong shapes, numbers out of range.
        TypeError: a flow of another kind.
    """
    if not isinstance(flow, CNF | CouplingFlow):
        raise TypeError(f"flow is a {type(flow).__name__}; give a jaxflow.CNF or CouplingFlow")
    for name, number in (("num_rows", num_rows), ("num_samples", num_samples)):
        check_count(name, number)
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, such as 0.001")
    flow, rows, cond, _ = check_arguments(without_raising(flow), data, cond, "data")
    if not len(rows):
        raise ValueError(f"data has shape {rows.shape}: no rows to examine")
    names = np.arange(len(rows)) if row_numbers is None else np.asarray(row_numbers)
    if names.shape != (len(rows),) or names.dtype.kind not in "iu":
        raise ValueError(
            f"row_numbers has shape {names.shape} and dtype {names.dtype}; give {len(rows)} whole "
            "numbers, one a row"
        )
    check_atol(flow, rows, atol_nats)
    pick_key, solve_key, sample_key, mass_key, slope_key, test_key = jax.random.split(key, 6)
    rng = generator(pick_key)
    some = _some(len(rows), num_rows, rng)
    num_data, rows, cond, numbers = len(rows), rows[some], _take(cond, some), names[some]
    skipped: dict[str, str] = {}

    def kept(name: str, found: T | str | None) -> T | None:
        if not isinstance(found, str):
            return found
        skipped[name] = found
        return None

    solves = examine_solves(flow, rows, cond, numbers, key=solve_key, atol_nats=atol_nats)
    z = flow.encode(rows, cond)
    encoded = on_host(z).reshape(len(rows), -1)
    pairs = _some(len(rows), num_samples, rng)
    drawn, samples = _draw(flow, num_samples, _take(cond, pairs), len(pairs), sample_key)

    moving = isinstance(flow, CNF)
    truth = slope = None
    if moving:
        stated = _stated(solves)
        found = compare_with_truth(flow, rows, cond, solves.log_prob, stated, atol_nats=atol_nats)
        truth = kept("true error", found)
        slope = examine_slope(flow, rows, cond, numbers, key=slope_key)
    where = samples if cond is not None else jnp.concatenate([rows, samples])
    exact = replace(flow, trace="exact") if moving else flow
    first = None if cond is None else cond[0]
    # Of the density behind the grids of whole numbers, which integrates to 1.
    spread = with_transform(exact, without_noise(exact.transform))
    mass = measure_mass(spread, where, first, generator(mass_key), allowed=atol_nats)
    normality = _normality(flow.base, encoded, level)
    tests = _tests(rows[pairs], drawn, _take(cond, pairs), generator(test_key), level)
    return Diagnosis(
        num_rows=num_data,
        rows=numbers,
        num_samples=num_samples,
        failed_samples=int(np.sum(~_finite(samples))),
        precision=str(rows.dtype),
        solves=solves,
        truth=truth,
        mass=kept("mass", mass),
        round_trip=kept("round trip", examine_round_trip(flow, rows, z, cond)),
        slope=slope,
        normality=kept("base", normality),
        mmd=kept("MMD", tests[0]),
        c2st=kept("classifier", tests[1]),
        skipped=skipped,
        encoded=encoded,
    )


def _some(count: int, at_most: int, rng: np.random.Generator) -> Int[np.ndarray, " some"]:
    """Numbers of rows chosen at random, in order."""
    return np.sort(rng.choice(count, min(count, at_most), replace=False))


def _take(cond: Array | None, numbers: np.ndarray) -> Array | None:
    return None if cond is None else cond[numbers]


def _draw(
    flow: CNF | CouplingFlow, num: int, cond: Array | None, pairs: int, key: PRNGKeyArray
) -> tuple[Array, Array]:
    """Samples to pair with rows, and samples of one density: the first condition's, if any."""
    if cond is None:
        samples = flow.sample(key, num)
        return samples[:pairs], samples
    pair_key, key = jax.random.split(key)
    return flow.sample(pair_key, pairs, cond), flow.sample(key, num, cond[0])


def _stated(solves: Solves) -> Float[np.ndarray, " rows"] | None:
    """The errors that the flow states, where they are all there is to be wrong."""
    return None if solves.trace_se is not None or solves.one_probe else solves.ode_errors


def _finite(x: Array) -> Bool[np.ndarray, " rows"]:
    return np.asarray(np.isfinite(on_host(x)).reshape(len(x), -1).all(axis=1))


def _normality(base: Any, z: Float[np.ndarray, "rows d"], level: float) -> Normality | str:
    if isinstance(base, DiagonalNormal):
        z = (z - on_host(base.mean).ravel()) / on_host(base.scale).ravel()
    elif not isinstance(base, StandardNormal):
        return f"a {type(base).__name__} is tested by nothing here; a normal density is"
    good = np.isfinite(z).all(axis=1)
    if np.mean(good) < SURVIVORS:
        return f"{np.sum(~good):,} of {len(z):,} encoded rows failed"
    return examine_normality(z[good], level)


def _tests(
    rows: Array, drawn: Array, cond: Array | None, rng: np.random.Generator, level: float
) -> tuple[MMD | str, C2ST | str]:
    """Both two-sample tests, on pairs whose sample succeeded, columns in units of their spread."""
    good = _finite(drawn)
    if np.mean(good) < SURVIVORS:
        why = f"{np.sum(~good):,} of {len(drawn):,} samples failed"
        return why, why
    data, samples = (on_host(x).reshape(len(x), -1)[good] for x in (rows, drawn))
    if cond is not None:
        given = on_host(cond).reshape(len(cond), -1)[good]
        data, samples = (np.concatenate([x, given], axis=1) for x in (data, samples))
    spread = data.std(axis=0)
    data, samples = (x / np.where(spread > 0, spread, 1.0) for x in (data, samples))
    return mmd(data, samples, rng, level), c2st(data, samples, rng, level)
