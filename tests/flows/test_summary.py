"""What `print(flow)` and a notebook say of a flow."""

import html
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow import CNF, ODE, CouplingFlow, StandardNormal
from jaxflow.diffusion import Denoiser, VariancePreserving, as_flow
from jaxflow.dynamics import MLP, ConcatSquash, Potential, Residual
from jaxflow.flows import FlowMap
from jaxflow.flows.summary import solve_words, transform_words, words
from jaxflow.transforms import (
    Bounded,
    Chain,
    Dequantise,
    Gaussianise,
    Standardise,
    Whiten,
)

KEY = jax.random.key(0)
TRANSFORM = Chain(
    (
        Dequantise(jnp.array([0.0, 0.0, 1.0])),
        Bounded(jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([1.0, 1.0, jnp.inf])),
        Standardise(jnp.array([0.5, 0.5, 3.0]), jnp.array([0.25, 0.25, 2.0])),
    )
)


def mlp_flow(**settings):
    return CNF(MLP(3, width=8, depth=3, key=KEY), StandardNormal(3), **settings)


FLOWS = {
    "cnf": lambda: mlp_flow(transform=TRANSFORM),
    "coupling": lambda: CouplingFlow(3, num_layers=4, width=16, key=KEY, transform=TRANSFORM),
    "map": lambda: FlowMap(MLP(4, cond_dim=1, width=8, key=KEY), mlp_flow(), 8),
    "diffusion": lambda: as_flow(Denoiser(MLP(3, key=KEY), VariancePreserving()), 3),
    "image": lambda: CNF(
        lambda t, x, cond=None: -x,
        StandardNormal((4, 4, 1)),
        transform=Dequantise(jnp.ones((4, 4, 1))),
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_text_and_table_have_the_same_facts(name):
    flow = FLOWS[name]()
    text, table = str(flow), flow._repr_html_()
    for label, row in flow.summary().items():
        assert label in text
        for line in (label, *row.split("\n")):
            assert line in text
            assert html.escape(line) in table
    assert not re.findall(r"https?:|src=|href=|<script|<style", table)
    assert repr(flow) == eqx.tree_pformat(flow)


def test_the_size_of_a_field_is_the_number_of_its_weights():
    flow = mlp_flow()
    count = sum(leaf.size for leaf in jax.tree.leaves(flow.field))
    row = flow.summary()["field"]
    assert row.startswith("MLP(layers=3-8-8-8-3, dim=3, cond_dim=0, activation=tanh), ")
    assert row.endswith(f"{count:,} parameters, float64")


@pytest.mark.parametrize("make", [ConcatSquash, Potential, Residual])
def test_every_network_shows_its_width(make):
    assert "-24" in words(make(2, width=24, key=KEY))


def test_the_trace_is_the_one_that_auto_means():
    assert mlp_flow().summary()["trace"] == (
        "exact, by Jacobian-vector products"
    )  # events of three entries: exact in training too
    two = CNF(MLP(9, width=8, key=KEY), StandardNormal(9))
    assert two.summary()["trace"] == "exact, in closed form"
    three = CNF(MLP(9, width=8, depth=3, key=KEY), StandardNormal(9))
    training, evaluation = three.summary()["trace"].split("; in evaluation ")
    assert training == "Hutchinson(num_probes=1, law=rademacher)"
    assert evaluation == "exact, by Jacobian-vector products"


def test_equal_columns_share_a_line_and_long_lists_end():
    title, *lines = FLOWS["cnf"]().summary()["transform"].split("\n")
    assert title == "Dequantise, then Bounded, then Standardise"
    limits = "Bounded lower 0, upper 1; Standardise mean 0.5, scale 0.25"
    assert lines == [
        f"columns 0 to 1: Dequantise step 0, origin 0; {limits}",
        "column 2: Dequantise step 1, origin 0; Standardise mean 3, scale 2",
    ]
    assert "entries 0 to 15: Dequantise step 1" in str(FLOWS["image"]())
    wide = Standardise(jnp.arange(50.0), jnp.ones(50))
    many = CNF(lambda t, x, cond=None: -x, StandardNormal(50), transform=wide).summary()
    assert len(many["transform"].split("\n")) == 8
    assert many["transform"].endswith("... 44 more lines")


def test_columns_of_mixed_and_curved_transforms_show_their_numbers():
    whiten = Whiten(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [3.0, 4.0]]))
    assert transform_words(whiten).split("\n") == [
        "Whiten",
        "column 0: Whiten mean 1, deviation 1",
        "column 1: Whiten mean 2, deviation 5",
    ]
    x = np.linspace(0.0, 1.0, 201)[:, None] ** 2 * [1.0, 10.0] + 2
    curves = Gaussianise.fit(x, num_knots=5)
    title, *lines = transform_words(curves).split("\n")
    assert title == "Gaussianise"
    for line, scale, knots in zip(lines, (1.0, 10.0), np.asarray(curves.knots), strict=True):
        numbers = [float(number) for number in re.findall(r" ([\d.]+)(?:,|$)", line)]
        np.testing.assert_allclose(numbers, [2 + 0.25 * scale, knots[0], knots[-1]], rtol=2e-3)
    for part in (whiten, curves):
        flow = CNF(MLP(2, key=KEY), StandardNormal(2), transform=part)
        for tree in (*eqx.partition(flow, eqx.is_array), eqx.filter_eval_shape(lambda: flow)):  # noqa: B023
            assert type(part).__name__ in str(tree)
        eqx.filter_jit(lambda flow: str(flow) and flow.field.dim)(flow)


def test_treescope_shows_a_flow():
    treescope = pytest.importorskip("treescope")
    page = treescope.render_to_text(FLOWS["cnf"]())
    for name in ("CNF", "MLP", "StandardNormal", "Dequantise"):
        assert name in page
    assert "Error" not in page


def test_solves_are_told_apart():
    assert solve_words(ODE(solver="rk4", num_steps=4)).startswith("rk4, 4 steps;")
    assert solve_words(ODE(solver="rk4", dt=0.1)).startswith("rk4, steps of at most 0.1;")
    adaptive = solve_words(ODE(rtol=1e-6, atol=1e-7, max_step=0.04))
    assert adaptive.startswith("tsit5, adaptive, rtol 1e-06, atol 1e-07, at most 4,096 steps of")
    assert "at most 0.04" in adaptive


def test_names_are_escaped():
    class Odd(eqx.Module):
        note: str = eqx.field(static=True)

        def __call__(self, t, x, cond=None):
            return -x

    flow = CNF(Odd("<b>&"), StandardNormal(2))
    assert "Odd(note=<b>&)" in str(flow)
    assert "Odd(note=&lt;b&gt;&amp;)" in str(flow._repr_html_())


def test_trees_of_a_flow_print_too():
    flow = FLOWS["cnf"]()
    marks = jaxflow.trainable(flow)
    assert str(marks) == repr(marks)
    assert marks._repr_html_() is None
    params, static = eqx.partition(flow, eqx.is_array)
    shapes = eqx.filter_eval_shape(lambda: flow)
    for tree in (params, static, shapes):
        assert "MLP" in str(tree)
    shown = []
    eqx.filter_jit(lambda flow: shown.append(str(flow)))(flow)
    assert "mean" not in shown[0]  # values are unknown while jax traces
    assert "MLP(layers=3-8-8-8-3" in shown[0]


def test_a_stochastic_trace_without_probes_yet_prints():
    flow = mlp_flow(trace=jaxflow.Hutchinson(target_se=0.1))
    assert "target_se=0.1" in str(flow)


def test_an_own_base_is_named():
    class Flat:
        event_shape = (2,)

        def log_prob(self, x):
            return jnp.sum(0 * x)

        def sample(self, key):
            return jnp.asarray(np.zeros(2))

    assert CNF(MLP(2, key=KEY), Flat()).summary()["base"] == "Flat"
