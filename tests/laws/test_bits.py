"""A row has the same bits alone and in any batch, compiled as for users: float32, no flags."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Rows of more than one chunk; each case in a process of its own, for the suite's flags are not
# a user's.
SCRIPT = """
import json, sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from jaxflow import CNF, CouplingFlow, DiagonalNormal, Ensemble, GaussianMixture
from jaxflow import StandardNormal, StudentT
from jaxflow.dynamics import MLP
from jaxflow.transforms import Chain, Gaussianise, Standardise, Whiten

def grown(field):
    rng = np.random.default_rng(17)
    grow = lambda w: w + jnp.asarray(0.1 * rng.normal(size=w.shape), w.dtype)
    return jax.tree.map(lambda w: grow(w) if eqx.is_inexact_array(w) else w, field)

dim, rows, sizes, thorough = json.loads(sys.argv[1])
key = jax.random.key(0)
x = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
batches = {f"{n} rows": np.arange(n) for n in sizes}
batches["in another order"] = np.random.default_rng(1).permutation(rows)
bases = {
    "standard": lambda: StandardNormal(dim),
    "diagonal": lambda: DiagonalNormal(jnp.arange(dim) / 7, jnp.linspace(0.5, 2, dim)),
    "student": lambda: StudentT(4.0, (dim,)),
    "mixture": lambda: GaussianMixture.fit(x, 3),
}
transforms = {
    "none": lambda: None,
    "standardise": lambda: Standardise.fit(x),
    "whiten": lambda: Whiten.fit(x),
    "chain": lambda: Chain((Standardise.fit(x), Gaussianise.fit(x))),
}
if thorough:
    pairs = [(base, transform) for base in bases for transform in transforms]
else:
    pairs = [("mixture", "chain")]
network = grown(MLP(dim, width=32, depth=2, key=key))

def formula(t, x, cond=None):
    # Without a matrix product XLA merges more, and so rounds differently where it does.
    return jnp.sin(3 * x[::-1]) * (1 + t) - 0.4 * x * jnp.cos(x)

num_layers = 4 if thorough else 2
coupling = grown(CouplingFlow(max(2, dim), width=16, num_layers=num_layers, key=key).layers)
different = {}
cases = [(network, *pair) for pair in pairs] + [(formula, "standard", "none")]
for field, base, transform in cases:
    parts = {"base": bases[base](), "transform": transforms[transform]()}
    flow = CNF(field, **parts)
    calls = {
        "log_prob": flow.log_prob,
        "with error": lambda x: jnp.stack(
            [each.astype(x.dtype) for each in flow.log_prob_with_error(x)], 1
        ),
        "encode": flow.encode,
    }
    if not thorough:  # each call of one field at least
        del calls["with error" if field is formula else "encode"]
    if thorough:
        calls["at"] = lambda x: flow.log_prob_at(0.5, x)
        calls["decode"] = flow.decode
        calls["transport"] = lambda x: flow.transport(x, 0.2, 0.7)
    if dim > 1 and field is network and (thorough or transform == "chain"):
        made = CouplingFlow(dim, width=16, num_layers=num_layers, key=key, **parts)
        made = eqx.tree_at(lambda flow: flow.layers, made, coupling)
        calls["coupling"] = made.log_prob
        if thorough:
            calls["coupling decode"] = made.decode
            calls["ensemble"] = Ensemble([flow, made], [1, 2]).log_prob
    for name, call in calls.items():
        together = np.asarray(call(x)).reshape(rows, -1)
        for what, places in batches.items():
            batch = np.asarray(call(x[places])).reshape(len(places), -1)
            count = int((together[places] != batch).any(axis=1).sum())
            if count:
                field_name = getattr(field, "__name__", "network")
                different[f"{field_name}, {base}, {transform}, {name}, {what}"] = count
    # Compiled programs hold memory maps, of which a process has a limited number.
    jax.clear_caches()
print(json.dumps(different))
"""


# Rows at other places of a batch, for each field.
PLACES = """
import json, sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from jaxflow import CNF, StandardNormal
from jaxflow.bases import WrappedNormal
from tests.laws.fields import FIELDS

def in_float32(w):
    return 0.4 * w.astype(jnp.float32) if eqx.is_inexact_array(w) else w

different = {}
for name in json.loads(sys.argv[1]) or FIELDS:
    case, rng = FIELDS[name], np.random.default_rng(1)
    field = jax.tree.map(in_float32, case.field)
    x = rng.normal(size=(400, *case.event_shape)).astype(np.float32)
    base = StandardNormal(case.event_shape)
    if hasattr(field, "manifold"):
        x = np.asarray(jax.vmap(field.manifold.retract)(x))
        base = WrappedNormal(field.manifold, jnp.asarray(x[0]), 0.8)
    cond = rng.normal(size=(400, case.cond_dim)).astype(np.float32) if case.cond_dim else None
    call = CNF(field, base).log_prob
    together = np.asarray(call(x, cond))
    assert np.isfinite(together).all()
    for by in range(1, 128, 9):
        moved = np.roll(np.arange(len(x)), by)
        log_p = call(x[moved], None if cond is None else cond[moved])
        count = int((together[moved] != log_p).sum())
        if count:
            different[f"{name}, moved by {by}"] = count
    jax.clear_caches()
print(json.dumps(different))
"""


def as_users(script, *settings):
    """What a script prints in a process of its own."""
    flags = ("XLA_FLAGS", "JAX_ENABLE_X64")
    env = {name: value for name, value in os.environ.items() if name not in flags}
    env["PYTHONPATH"] = str(ROOT)
    run = subprocess.run(
        [sys.executable, "-c", script, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_row_has_the_same_bits_in_any_batch():
    assert as_users(SCRIPT, 3, 600, [77], False) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dim", [1, 2, 3, 6, 8, 12, 43])
def test_a_row_has_the_same_bits_in_any_batch_of_every_flow(dim):
    sizes = [1, 127, 128, 129, 257, 1000, 2047, 2049]
    assert as_users(SCRIPT, dim, 5000, sizes, True) == {}


def test_a_row_has_the_same_bits_at_any_place():
    assert as_users(PLACES, "function", "on a sphere, condition") == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_row_has_the_same_bits_at_any_place_for_every_field():
    assert as_users(PLACES) == {}
