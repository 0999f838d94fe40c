"""`diagnose`: examine a trained flow on rows of data."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PRNGKeyArray

from jaxflow.diagnostics.corrected import correct
from jaxflow.diagnostics.diagnosis import Diagnosis
from jaxflow.diagnostics.findings import column_scale, flatten, take, untestable
from jaxflow.diagnostics.geodesic import geodesic_mmd
from jaxflow.diagnostics.mass import measure_mass
from jaxflow.diagnostics.normality import measure_normality, normal_scores
from jaxflow.diagnostics.ranks import measure_ranks
from jaxflow.diagnostics.round_trip import measure_round_trip
from jaxflow.diagnostics.slope import measure_slope
from jaxflow.diagnostics.solves import check_atol, measure_solves, without_raising
from jaxflow.diagnostics.truth import measure_truth
from jaxflow.diagnostics.two_sample import C2ST, MMD, c2st, mmd
from jaxflow.diagnostics.uniformity import measure_uniformity, points_of
from jaxflow.dynamics.on_manifold import manifold_of
from jaxflow.flows.cnf import CNF
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.flows.data_space import check_arguments, with_transform
from jaxflow.flows.ensemble import Ensemble
from jaxflow.manifolds import Manifold
from jaxflow.runtime.checks import check_count, check_share, finite_rows
from jaxflow.runtime.keys import numpy_rng
from jaxflow.transforms import spread_rows, without_noise


def diagnose(
    flow: Any,
    data: ArrayLike,
    cond: ArrayLike | None = None,
    *,
    key: PRNGKeyArray,
    num_rows: int = 1000,
    num_samples: int = 1000,
    atol_nats: float = 1e-2,
    level: float = 1e-2,
    row_numbers: Any = None,
) -> Diagnosis:
    """Examine a flow on rows of data: can its log-densities and samples be trusted?

    It measures

    - the solves of the rows: failures, evaluations, estimated errors;
    - the true error of some log-densities, in float64;
    - the integral of the density, on a manifold (`jaxflow.dynamics.OnManifold`) over its surface;
    - the round trip to the base and back;
    - the field's Lipschitz constant along trajectories;
    - encoded data against the base, on a manifold by means, squares and energy distance
      (`jaxflow.diagnostics.uniformity`);
    - samples against data by two tests (`jaxflow.diagnostics.two_sample`), on a manifold by
      lengths of geodesics (`jaxflow.diagnostics.geodesic`) and as embedded points;
    - log-densities of data against those of samples by two tests (`jaxflow.diagnostics.ranks`).

    Failed rows do not raise: they are counted and named. A part that cannot be measured is
    reported as unknown.

    Use rows that did not train the flow: training rows fit too well. A test without a difference
    only says that this many rows reveal none: below 200 rows the tests are weak, and the verdict
    says so. All p-values are corrected for the number of tests (Holm): for a correct flow, any of
    them is below `level` with probability `level` at most.

    ```python
    import jax
    from jaxflow import CouplingFlow
    from jaxflow.diagnostics import diagnose
    key = jax.random.key(0)
    x = jax.random.normal(key, (100, 2))
    print(diagnose(CouplingFlow(2, key=key), x, key=key))  # a table, then the verdict
    ```

    Args:
        flow: a `CNF` or a `CouplingFlow`.
        data: rows in data units, (n, *event).
        cond: conditions, (n, *condition), or one vector for all. Samples are drawn at the
            conditions of the rows, and the integral is that at the first one.
        key: random key for the choice of rows, samples, probes and tests.
        num_rows: examine at most this many rows, chosen at random.
        num_samples: number of samples, and at most this many rows are compared with them.
        atol_nats: target accuracy of a log-density, in nats.
        level: corrected p-values below this count as a difference.
        row_numbers: what the result calls the rows, n integers. Default: 0, 1, 2, ...

    Returns:
        The numbers and the verdict; `print` it.

    Raises:
        ValueError: no rows, NaN or infinite rows (named), wrong shapes, numbers out of range.
        TypeError: another kind of flow.
    """
    if isinstance(flow, Ensemble):
        raise TypeError(
            "flow is an Ensemble, which maps no rows to a base: diagnose each of flow.flows, and "
            "compare samples with data, jaxflow.diagnostics.two_sample.c2st(data, np.asarray("
            "flow.sample(key, len(data))), np.random.default_rng(0), 0.01)"
        )
    if not isinstance(flow, CNF | CouplingFlow):
        raise TypeError(f"flow is a {type(flow).__name__}; give a jaxflow.CNF or CouplingFlow")
    for name, number in (("num_rows", num_rows), ("num_samples", num_samples)):
        check_count(name, number)
    check_share("level", level, 0.01)
    flow, rows, cond, _ = check_arguments(without_raising(flow), data, cond, "data")
    if not len(rows):
        raise ValueError(f"data has shape {rows.shape}; give at least one row")
    numbers = np.arange(len(rows)) if row_numbers is None else np.asarray(row_numbers)
    if numbers.shape != (len(rows),) or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"row_numbers has shape {numbers.shape} and dtype {numbers.dtype}; give {len(rows)} "
            "integers, one per row"
        )
    check_atol(flow, rows, atol_nats)
    pick_key, solve_key, sample_key, mass_key, slope_key, test_key = jax.random.split(key, 6)
    rng = numpy_rng(pick_key)
    some = _choose(len(rows), num_rows, rng)
    num_data, rows, cond, numbers = len(rows), rows[some], take(cond, some), numbers[some]

    solves = measure_solves(flow, rows, cond, numbers, key=solve_key, atol_nats=atol_nats)
    # On grids of integers only rows with noise are N(0, I) at the base.
    z = flow.encode(spread_rows(flow.transform, rows, jax.random.fold_in(key, 1)), cond)
    manifold = manifold_of(getattr(flow, "field", None))
    scores = normal_scores(flow.base, z) if manifold is None else None
    pairs = _choose(len(rows), num_samples, rng)
    paired, samples = _draw_samples(flow, num_samples, take(cond, pairs), len(pairs), sample_key)

    parts: dict[str, Any] = {}
    exact = flow
    if isinstance(flow, CNF):
        # The error is known only if steps are its only source.
        stated = None if solves.trace_se is not None or solves.one_probe else solves.ode_errors
        parts["true error"] = measure_truth(
            flow, rows, cond, solves.log_prob, stated, atol_nats=atol_nats
        )
        parts["slope"] = measure_slope(flow, rows, cond, numbers, key=slope_key)
        exact = replace(flow, trace="exact")
    # On grids of integers, integrate the dequantised density.
    exact = with_transform(exact, without_noise(exact.transform))
    points = samples if cond is not None else jnp.concatenate([rows, samples])
    if manifold is not None:
        points = spread_rows(flow.transform, points, jax.random.fold_in(key, 2))
    first = None if cond is None else cond[0]
    parts["mass"] = measure_mass(exact, points, first, numpy_rng(mass_key), allowed=atol_nats)
    parts["round trip"] = measure_round_trip(flow, rows, z, cond)
    no_cdf = f"a {type(flow.base).__name__} has no method cdf to test the encoded rows with"
    if manifold is None:
        parts["base"] = no_cdf if scores is None else measure_normality(scores, level)
        shown = [rows[pairs], paired]
    else:
        base_rng = numpy_rng(jax.random.fold_in(test_key, 1))
        parts["uniformity"] = measure_uniformity(flow.base, manifold, z, base_rng, level)
        shown = [points_of(flow.transform, part) for part in (rows[pairs], paired)]
    parts["MMD"], parts["classifier"] = _compare_samples(
        shown[0], shown[1], take(cond, pairs), manifold, numpy_rng(test_key), level
    )
    parts["log-densities"] = measure_ranks(
        flow, solves.log_prob[pairs], paired, take(cond, pairs), key=solve_key, level=level
    )
    parts, num_tests = correct(parts)
    skipped = {name: part for name, part in parts.items() if isinstance(part, str)}
    measured = {name: part for name, part in parts.items() if name not in skipped}
    return Diagnosis(
        num_rows=num_data,
        rows=numbers,
        num_samples=num_samples,
        failed_samples=int(np.sum(~finite_rows(samples))),
        precision=str(rows.dtype),
        solves=solves,
        truth=measured.get("true error"),
        mass=measured.get("mass"),
        round_trip=measured.get("round trip"),
        slope=measured.get("slope"),
        normality=measured.get("base"),
        uniformity=measured.get("uniformity"),
        mmd=measured.get("MMD"),
        c2st=measured.get("classifier"),
        ranks=measured.get("log-densities"),
        num_tests=num_tests,
        level=level,
        skipped=skipped,
        encoded=flatten(z) if scores is None else scores,
    )


def _choose(count: int, at_most: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of rows chosen at random."""
    return np.sort(rng.choice(count, min(count, at_most), replace=False))


def _draw_samples(
    flow: CNF | CouplingFlow, num: int, cond: Array | None, pairs: int, key: PRNGKeyArray
) -> tuple[Array, Array]:
    """Samples to pair with rows, and `num` of one density: at the first condition, if any."""
    if cond is None:
        samples = flow.sample(key, num)
        return samples[:pairs], samples
    pair_key, key = jax.random.split(key)
    return flow.sample(pair_key, pairs, cond), flow.sample(key, num, cond[0])


def _compare_samples(
    rows: Array,
    samples: Array,
    cond: Array | None,
    manifold: Manifold | None,
    rng: np.random.Generator,
    level: float,
) -> tuple[MMD | str, C2ST | str]:
    """Both two-sample tests on pairs with a finite sample, with scaled columns.

    On a manifold `rows` and `samples` are its points.
    """
    solved = finite_rows(samples)
    if why := untestable(solved, "samples"):
        return why, why
    by_geodesics = None
    if manifold is not None:
        solved_cond = None if cond is None else cond[solved]
        parts = manifold, rows[solved], samples[solved]
        by_geodesics = geodesic_mmd(*parts, rng, level, solved_cond)
        rows, samples = (jax.vmap(manifold.embed)(x) for x in (rows, samples))
    columns = () if cond is None else (flatten(cond),)
    data, drawn = (np.concatenate([flatten(x), *columns], axis=1)[solved] for x in (rows, samples))
    scale = column_scale(data)
    data, drawn = data / scale, drawn / scale
    return by_geodesics or mmd(data, drawn, rng, level), c2st(data, drawn, rng, level)
