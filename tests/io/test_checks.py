"""A file that was edited meets the checks that its constructors make."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import safetensors.numpy

from jaxflow import (
    CNF,
    ODE,
    DiagonalNormal,
    GaussianMixture,
    Hutchinson,
    HutchPlusPlus,
    StandardNormal,
    StudentT,
    load,
    save,
)
from jaxflow.dynamics import Linear
from jaxflow.ode import Adjoint
from jaxflow.transforms import Bounded, Standardise, Whiten

FLOW = CNF(
    Linear(2, key=jax.random.key(0)),
    StandardNormal(2),
    trace=Hutchinson(4),
    ode_eval=ODE(gradient=Adjoint(checkpoints=3)),
)
EDITS = {
    "rtol": ('"rtol":1e-05', '"rtol":-1.0', r"'ode\w*' is a ODE that is refused: rtol=-1.0"),
    "nan": ('"atol":1e-05', '"atol":{"float":"nan"}', r"atol=nan must not be negative"),
    "max_steps": ('"max_steps":4096', '"max_steps":1.5', r"max_steps=1.5 must be an integer"),
    "solver": ('"solver":"rk4"', '"solver":"rk5"', r"solver='rk5' is unknown"),
    "word": ('"rtol":1e-05', '"rtol":"small"', r"'ode\w*' is a ODE that is refused"),
    "max_step": ('"max_step":null', '"max_step":0.0', r"max_step=0.0 must be a positive share"),
    "adjoint": ('"checkpoints":3', '"checkpoints":-1', r"is a Adjoint .*checkpoints=-1 must be"),
    "probes": ('"num_probes":4', '"num_probes":0', r"'trace' is a Hutchinson .*num_probes=0"),
    "law": ('"law":"rademacher"', '"law":"coin"', r"'trace' is a Hutchinson .*law='coin'"),
}


def edit(path, old, new):
    """Replace a part of the description of a file."""
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    (key, text), *_ = json.loads(header[8 : 8 + length])["__metadata__"].items()
    document = json.loads(text)
    del document["sha256"]
    text = json.dumps(document, separators=(",", ":"))
    assert old in text
    arrays = safetensors.numpy.load_file(path)
    path.write_bytes(safetensors.numpy.save(arrays, metadata={key: text.replace(old, new)}))


@pytest.mark.parametrize("name", EDITS)
def test_a_setting_out_of_range_is_refused_by_place_and_value(name, tmp_path):
    save(tmp_path / "flow", FLOW)
    assert load(tmp_path / "flow").ode_eval == FLOW.ode_eval
    old, new, words = EDITS[name]
    edit(tmp_path / "flow", old, new)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "flow")


def test_an_array_out_of_range_is_refused(tmp_path):
    flow = eqx.tree_at(lambda flow: flow.trace, FLOW, HutchPlusPlus(jnp.eye(2)))
    bent = eqx.tree_at(lambda flow: flow.trace.subspace, flow, 1.0045 * jnp.eye(2))
    save(tmp_path / "flow", bent)
    with pytest.raises(ValueError, match=r"'trace' is a HutchPlusPlus .*must be orthonormal"):
        load(tmp_path / "flow")


def test_a_base_of_another_shape_is_refused(tmp_path):
    save(tmp_path / "flow", FLOW)
    edit(tmp_path / "flow", '"event_shape":{"tuple":[2]}', '"event_shape":{"tuple":[3]}')
    with pytest.raises(ValueError, match=r"'root' is a CNF .*base has events of shape \(3,\)"):
        load(tmp_path / "flow")


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "complex64"])
def test_weights_that_are_not_finite_are_refused_by_leaf_and_file(value, dtype, tmp_path):
    matrix = jnp.eye(2, dtype=dtype)
    good = eqx.tree_at(lambda flow: flow.field.matrix, FLOW, matrix)
    save(tmp_path / "good", good)
    assert eqx.tree_equal(load(tmp_path / "good"), good)
    bad = eqx.tree_at(lambda flow: flow.field.matrix, good, matrix.at[1, 0].set(value))
    save(tmp_path / "flow", bad)
    for like in (None, good):
        words = r"flow \(.*'field.matrix' holds NaN or infinity in 1 of 4 entries, .* at \(1, 0\)"
        with pytest.raises(ValueError, match=words):
            load(tmp_path / "flow", like=like)


def test_limits_may_be_infinite_and_never_nan(tmp_path):
    limits = Bounded([0.0, -jnp.inf], [jnp.inf, jnp.inf])
    flow = eqx.tree_at(
        lambda flow: flow.transform, FLOW, [limits], is_leaf=lambda leaf: leaf is None
    )
    save(tmp_path / "flow", flow)
    assert eqx.tree_equal(load(tmp_path / "flow"), flow)
    assert eqx.tree_equal(load(tmp_path / "flow", like=flow), flow)
    bad = eqx.tree_at(lambda flow: flow.transform[0].upper, flow, jnp.asarray([jnp.nan, 1.0]))
    save(tmp_path / "bad", bad)
    with pytest.raises(ValueError, match=r"'transform.0.upper' holds NaN .* first nan at \(0,\)"):
        load(tmp_path / "bad")


@pytest.mark.parametrize(
    ("part", "place", "bad", "words"),
    [
        (Standardise(jnp.zeros(2), jnp.ones(2)), "scale", [-1.0, 1.0], "scale at least"),
        (Whiten(jnp.zeros(2), jnp.eye(2)), "factor", [[0.0, 0.0], [0.0, 1.0]], "factor"),
        (DiagonalNormal(jnp.zeros(2), jnp.ones(2)), "scale", [0.0, 1.0], "must be positive"),
        (StudentT(3.0, 2), "df", [-3.0, 3.0], "must be positive"),
        (GaussianMixture([1.0], [[0.0, 0.0]], [jnp.eye(2)]), "weights", [0.0], "positive"),
    ],
)
def test_parameters_of_bases_and_transforms_are_those_of_constructors(
    part, place, bad, words, tmp_path
):
    save(tmp_path / "part", part)
    assert eqx.tree_equal(load(tmp_path / "part"), part)
    edited = eqx.tree_at(lambda each: getattr(each, place), part, jnp.asarray(bad))
    save(tmp_path / "edited", edited)
    with pytest.raises(ValueError, match=f"(?s)is a {type(part).__name__} .*refused: .*{words}"):
        load(tmp_path / "edited")
