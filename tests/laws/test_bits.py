"""A row has the same bits alone and in any batch, compiled as for users: float32, no flags."""

import json
import os
import subprocess
import sys

import pytest

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
        for n in sizes:
            alone = np.asarray(call(x[:n])).reshape(n, -1)
            count = int((together[:n] != alone).any(axis=1).sum())
            if count:
                field_name = getattr(field, "__name__", "network")
                different[f"{field_name}, {base}, {transform}, {name}, {n} rows"] = count
    # Compiled programs hold memory maps, of which a process has a limited number.
    jax.clear_caches()
print(json.dumps(different))
"""


def different(dim, rows, sizes, *, thorough):
    settings = json.dumps([dim, rows, sizes, thorough])
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, settings],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_row_has_the_same_bits_in_any_batch():
    assert different(3, 600, [77], thorough=False) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dim", [1, 2, 3, 6, 8, 12, 43])
def test_a_row_has_the_same_bits_in_any_batch_of_every_flow(dim):
    sizes = [1, 127, 128, 129, 257, 1000, 2047, 2049]
    assert different(dim, 5000, sizes, thorough=True) == {}
