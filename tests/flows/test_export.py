"""An exported flow gives the bits of the live one where jaxflow cannot be imported."""

import dataclasses
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow import CNF, ODE, CouplingFlow, Hutchinson, StandardNormal, Status
from jaxflow.dynamics import MLP
from jaxflow.transforms import Bounded, Standardise

pytest.importorskip("flatbuffers")

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "export.md"
(LOADER,) = re.findall(r"^```python\n(import json\n.*?)^```", PAGE.read_text(), re.DOTALL | re.M)
KEY = jax.random.key(3)
SIZES = 1, 300, 2500
# Columns with an offset, which float32 rounds: live calls subtract it in float64.
ROWS = np.random.default_rng(0).normal((1e4, 0.0), size=(max(SIZES), 2))

# Runs the loader on a file in a process without jaxflow and what it stands on.
READER = """
import sys
for name in ("jaxflow", "equinox", "diffrax", "optax", "lineax", "safetensors"):
    sys.modules[name] = None
{loader}
path, x64, out = sys.argv[1:]
jax.config.update("jax_enable_x64", x64 == "True")
given = np.load(out)
log_prob, sample = load_exported(path)
cond = [given["cond"]] if "cond" in given else []
found = dict()
for n in {sizes}:
    found[f"log_p{{n}}"], found[f"status{{n}}"] = log_prob(given["x"][:n], *(c[:n] for c in cond))
    found[f"x{{n}}"], _ = sample(jax.random.key(3), n, *(c[:n] for c in cond))
np.savez(out, **found)
"""


def elsewhere(path, x, cond=None, *, x64, sizes=SIZES):
    """What the loader gives in another process."""
    out = path.with_suffix(".npz")
    np.savez(out, x=x, **({} if cond is None else {"cond": cond}))
    code = READER.format(loader=LOADER, sizes=sizes)
    command = [sys.executable, "-c", code, str(path), str(x64), str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return np.load(out)


def load(path):
    """The loader of the page, in this process."""
    names = {}
    exec(LOADER, names)
    return names["load_exported"](path)


def cnf(**settings):
    return CNF(MLP(2, width=8, key=KEY), StandardNormal(2), **settings)


CASES = {
    "cnf": lambda: (cnf(), None),
    "transform": lambda: (cnf(transform=Standardise.fit(ROWS)), None),
    "cond": lambda: (
        CNF(
            MLP(2, width=8, cond_dim=1, key=KEY),
            StandardNormal(2),
            transform=Standardise.fit(ROWS),
        ),
        np.linspace(-1, 1, len(ROWS))[:, None],
    ),
    "fixed steps": lambda: (cnf(ode_eval=ODE(solver="rk4", num_steps=4)), None),
    "coupling": lambda: (CouplingFlow(2, num_layers=2, width=8, key=KEY), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_live_calls(case, x64, tmp_path):
    path = tmp_path / "flow.zip"
    with jax.enable_x64(x64):
        flow, cond = CASES[case]()
        x = ROWS if flow.transform is not None else ROWS - [1e4, 0.0]
        dtype = np.float64 if x64 else np.float32
        cond = None if cond is None else cond.astype(dtype)
        jaxflow.export(flow, path, cond_shape=None if cond is None else 1)
        found = elsewhere(path, x, cond, x64=x64)
        for n in SIZES:
            c = None if cond is None else cond[:n]
            assert found[f"log_p{n}"].dtype == dtype
            np.testing.assert_array_equal(found[f"log_p{n}"], flow.log_prob(x[:n], c))
            np.testing.assert_array_equal(found[f"x{n}"], flow.sample(KEY, n, c))
            assert (found[f"status{n}"] == Status.SUCCESS).all()


def test_a_failed_row_is_nan_with_a_status(tmp_path):
    path = tmp_path / "flow.zip"
    flow = cnf(ode_eval=ODE(max_steps=1, rtol=1e-12, atol=1e-12))
    jaxflow.export(flow, path)
    log_p, status = load(path)[0](np.ones((2, 2)))
    assert np.isnan(log_p).all()
    assert (status == Status.MAX_STEPS).all()


def test_rows_that_live_calls_refuse_have_no_density(tmp_path):
    path = tmp_path / "flow.zip"
    flow = CouplingFlow(
        2, num_layers=2, width=8, transform=Bounded([0.0, 0.0], [1.0, 1.0]), key=KEY
    )
    jaxflow.export(flow, path)
    log_p, status = load(path)[0]([[0.5, 0.5], [2.0, 0.5], [np.nan, 0.5], [np.inf, 0.5]])
    assert status.tolist() == [Status.SUCCESS, Status.OUTSIDE, *2 * [Status.NON_FINITE]]
    np.testing.assert_array_equal(log_p[1:], [-np.inf, np.nan, np.nan])
    np.testing.assert_array_equal(log_p[:1], flow.log_prob([[0.5, 0.5]]))


def test_the_manifest_says_what_the_programs_need(tmp_path):
    path = tmp_path / "new" / "flow.zip"
    with jax.enable_x64(False):
        flow = CouplingFlow(2, num_layers=2, width=8, cond_dim=3, key=KEY)
        jaxflow.export(flow, path, cond_shape=3, platforms=("cpu", "cuda"))
    with zipfile.ZipFile(path) as file:
        about = json.loads(file.read("manifest.json"))
    assert about["platforms"] == ["cpu", "cuda"]
    assert (about["event_shape"], about["cond_shape"]) == ([2], [3])
    assert (about["dtype"], about["reads"]) == ("float32", "float32")
    assert about["statuses"]["OUTSIDE"] == Status.OUTSIDE
    assert jax.export.minimum_supported_calling_convention_version <= about["calling_convention"]
    jaxflow.export(flow, path, cond_shape=3, overwrite=True)


def by_numpy(t, x, cond=None):
    return jnp.asarray(-np.asarray(x))


def called_back(t, x, cond=None):
    return jax.pure_callback(lambda x: -np.asarray(x), x, x, vmap_method="expand_dims")


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        (lambda: cnf(trace="hutchinson"), r'dataclasses.replace\(flow, trace="exact"\)'),
        (lambda: cnf(trace=Hutchinson(target_se=0.1)), r'replace\(flow, trace="exact"\)'),
        (lambda: CNF(by_numpy, StandardNormal(2)), "jax's operations"),
        (lambda: CNF(called_back, StandardNormal(2)), "cannot be exported: .*callback"),
        (lambda: CNF(MLP(2, cond_dim=1, key=KEY), StandardNormal(2)), r"cond_shape=\(c,\)"),
    ],
)
def test_what_cannot_be_exported_is_refused(flow, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        jaxflow.export(flow(), tmp_path / "flow.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_advice_for_a_stochastic_trace_works(tmp_path):
    flow = dataclasses.replace(cnf(trace="hutchinson"), trace="exact")
    jaxflow.export(flow, tmp_path / "flow.zip")
    x = ROWS[:3] - [1e4, 0.0]
    np.testing.assert_array_equal(load(tmp_path / "flow.zip")[0](x)[0], flow.log_prob(x))


def test_arguments_are_checked(tmp_path):
    path = tmp_path / "flow.zip"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        jaxflow.export(cnf(), path)
    assert path.read_text() == "mine"
    with pytest.raises(TypeError, match=r"write \('cpu',\)"):
        jaxflow.export(cnf(), tmp_path / "new.zip", platforms="cpu")
