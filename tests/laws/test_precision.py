"""The dtype of every answer: the widest of the flow's own arrays and of what is given."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import (
    CNF,
    ODE,
    CouplingFlow,
    DiagonalNormal,
    FlowBase,
    FlowMap,
    GaussianMixture,
    StandardNormal,
    StudentT,
    TrainConfig,
    distil,
    fit,
)
from jaxflow.diffusion import (
    ClassifierFree,
    Denoiser,
    VarianceExploding,
    VariancePreserving,
    as_flow,
    draw,
)
from jaxflow.dynamics import MLP, OptionalCondition
from jaxflow.objectives import Reflow
from jaxflow.transforms import Bounded, Dequantise

KEY = jax.random.key(0)
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def single(tree):
    """The tree in float32."""
    return jax.tree.map(
        lambda leaf: leaf.astype(SINGLE) if eqx.is_inexact_array(leaf) else leaf, tree
    )


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A distribution whose numbers the library does not see, drawn by `sample(seed=key)`."""

    event_shape: tuple[int, ...] = (2,)

    def log_prob(self, x):
        return jnp.sum(jax.scipy.stats.norm.logpdf(x.astype(DOUBLE), np.float64(0.5)))

    def sample(self, seed):
        return 0.5 + jax.random.normal(seed, (2,), DOUBLE)


TWO = jnp.ones(2, SINGLE)
NETWORK = single(MLP(2, width=4, depth=1, key=KEY))
NORMAL = StandardNormal(2)
BASES = {
    "standard": NORMAL,
    "diagonal": DiagonalNormal(0 * TWO, TWO),
    "student": StudentT(5 * TWO),
    "mixture": GaussianMixture(
        TWO / 2, jnp.eye(2, dtype=SINGLE), jnp.stack([jnp.eye(2, dtype=SINGLE)] * 2)
    ),
    "flow": FlowBase(CNF(NETWORK, NORMAL)),
    "opaque": Opaque(),
}
NET = single(MLP(3, width=4, depth=1, cond_dim=1, key=KEY))
MAKERS = {
    "cnf": lambda base: CNF(NETWORK, base),
    "transformed cnf": lambda base: CNF(NETWORK, base, transform=Bounded(-9 * TWO, 9 * TWO)),
    "coupling": lambda base: single(CouplingFlow(2, num_layers=2, width=4, base=base, key=KEY)),
    "map": lambda base: FlowMap(NET, CNF(NETWORK, base), 2),
}
FLOWS = {f"{maker}, {base}": (maker, base) for maker in MAKERS for base in BASES}
DIFFUSIONS = {
    "exploding": as_flow(Denoiser(NETWORK, VarianceExploding()), 2),
    "grid": as_flow(Denoiser(NETWORK, VariancePreserving()), 2, transform=Dequantise(TWO)),
}
X = 0.3 * TWO[None] * jnp.arange(3, dtype=SINGLE)[:, None]


def dtypes(flow, x, cond=None):
    """Of all answers about rows, and of all samples; nothing is computed."""

    def about_rows(x, cond):
        yield flow.log_prob(x, cond)
        yield flow.encode(x, cond)
        yield flow.decode(x, cond)
        if hasattr(flow, "log_prob_with_error"):
            answer = flow.log_prob_with_error(x, cond)
            yield from (answer.value, answer.ode_error, answer.refined)

    def samples(cond):
        yield flow.sample(KEY, 3, cond)
        yield from flow.sample_and_log_prob(KEY, 3, cond)

    rows = jax.eval_shape(lambda x, cond: [*about_rows(x, cond)], x, cond)
    drawn = jax.eval_shape(lambda cond: [*samples(cond)], cond)
    return {leaf.dtype for leaf in rows}, {leaf.dtype for leaf in drawn}


# Of bases with arrays, one is like another.
QUICK = {"cnf, diagonal"} | {f"coupling, {b}" for b in BASES if b not in ("student", "mixture")}


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("name", [*FLOWS, *DIFFUSIONS])
def test_answers_are_in_the_widest_dtype(name):
    flow = (
        DIFFUSIONS[name] if name in DIFFUSIONS else MAKERS[FLOWS[name][0]](BASES[FLOWS[name][1]])
    )
    assert dtypes(flow, X) == ({SINGLE}, {SINGLE})
    assert dtypes(flow, X.astype(DOUBLE)) == ({DOUBLE}, {SINGLE})
    wide = jax.tree.map(
        lambda leaf: leaf.astype(DOUBLE) if eqx.is_inexact_array(leaf) else leaf, flow
    )
    assert dtypes(wide, X) == ({DOUBLE}, {DOUBLE})


@pytest.mark.slow
def test_conditions_count_and_a_flow_without_arrays_takes_the_default():
    network = single(MLP(2, width=4, depth=1, cond_dim=1, key=KEY))
    for dtype in (SINGLE, DOUBLE):
        cond = jnp.ones((3, 1), dtype)
        assert dtypes(CNF(network, NORMAL), X, cond) == ({dtype}, {dtype})
    assert dtypes(CNF(lambda t, x: -x, NORMAL), X) == ({SINGLE}, {DOUBLE})


@pytest.mark.slow
def test_samplers_and_pairs_follow_the_rule():
    guided = ClassifierFree(
        Denoiser(OptionalCondition(single(MLP(2, cond_dim=3, key=KEY)), 2), VariancePreserving())
    )
    cases = [(flow, None) for flow in DIFFUSIONS.values()]
    for flow, cond in [
        *cases,
        (as_flow(guided, 2), TWO),
        (as_flow(guided, 2), TWO.astype(DOUBLE)),
    ]:
        x = jax.eval_shape(lambda flow=flow, cond=cond: draw(flow, KEY, 3, cond, num_steps=4))
        assert x.dtype == (SINGLE if cond is None else cond.dtype)
    pairs = jax.eval_shape(
        lambda: Reflow.of(CNF(NETWORK, NORMAL, ode_eval=ODE(num_steps=2)), KEY, 4)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(pairs)} == {SINGLE}


@pytest.mark.slow
def test_training_keeps_the_dtype():
    config = TrainConfig(steps=4, eval_every=4, batch_size=16, pilot=2)
    x = jax.random.normal(KEY, (60, 2), SINGLE)
    for rows in (x, jnp.round(2 * x)):
        flow, _ = fit(CNF(NETWORK, NORMAL), rows, key=KEY, config=config)
        assert dtypes(flow, X) == ({SINGLE}, {SINGLE})
    fast = distil(CNF(NETWORK, NORMAL), x, key=KEY, num_steps=2, num_samples=32, config=config)
    assert dtypes(fast, X) == ({SINGLE}, {SINGLE})


def contract(t, x):
    return -0.5 * x


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_rows_are_those_numbers_in_float32(dtype):
    x = jnp.asarray([[1.3, 2.2], [0.1, -3.1]], dtype)
    with jax.enable_x64(False):
        flow = CNF(contract, NORMAL)
        for call in (flow.log_prob, flow.encode, flow.train_log_prob):
            np.testing.assert_array_equal(call(x), call(x.astype(SINGLE)))
