"""The recipes of CONTRIBUTING.md obey the laws of the parts that exist already."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tests.bases import test_laws as bases
from tests.flows.test_flow_traces import check_unbiased, estimators
from tests.laws.fields import KEY, Case, grown
from tests.laws.test_traces import check_traces
from tests.transforms import test_columns as columns
from tests.transforms import test_laws as transforms

import jaxflow
from jaxflow import CNF, ODE, StandardNormal, TrainConfig
from jaxflow.dynamics import MLP, Linear
from jaxflow.trace import Estimator
from jaxflow.transforms import kinds

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
X = np.random.default_rng(3).normal(size=(300, 2)) * [1.0, 2.0]
CONFIG = TrainConfig(steps=40, eval_every=20, batch_size=128, learning_rate=1e-2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The blocks, each written to the file that its first line names."""
    folder = tmp_path_factory.mktemp("blocks")
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == TEXT.count("```python")
    for name, code in blocks:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return folder


@pytest.fixture(scope="module")
def added(files):
    """The names that all blocks define, each block loaded as a module of its own."""
    names = {}
    for path in files.rglob("*.py"):
        spec = importlib.util.spec_from_file_location(f"contributed_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        names |= {
            name: value for name, value in vars(module).items() if name not in ("jax", "Array")
        }
    return SimpleNamespace(**names)


def line_for(name, names):
    """The line of the text for a table of the tests, evaluated."""
    (code,) = re.findall(rf'`"{name}": ([^`]*)`', TEXT)
    return eval(code, dict(names))


def test_the_blocks_are_in_the_style_of_the_rest(files):
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(ROOT / "pyproject.toml")]
    for command in (["check"], ["format", "--check"]):
        run = subprocess.run(
            [*ruff, *command, *config, str(files)], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout


def test_the_field_obeys_the_law_of_fields(added):
    case = line_for("bumps", {"Case": Case, "Bumps": added.Bumps, "KEY": KEY})
    check_traces(case._replace(field=grown(case.field)))
    CNF(case.field, StandardNormal(5), trace="closed")
    with pytest.raises(ValueError, match="given to a model without conditions"):
        case.field(jnp.asarray(0.0), case.x(), jnp.ones(2))


@pytest.mark.slow
def test_the_base_obeys_the_laws_of_bases(added):
    case = line_for("logistic", {"Case": bases.Case, "Logistic": added.Logistic, "stats": stats})
    laws = bases.laws_of(case)
    assert len(laws) == len(bases.LAWS) + 2
    for law in laws:
        law(case)
    flow = CNF(Linear(2, key=KEY), case.base)
    assert jnp.isfinite(flow.log_prob(flow.sample(KEY, 3))).all()


@pytest.mark.slow
def test_the_transform_obeys_the_laws_of_transforms(added):
    names = {"Case": transforms.Case, "ArcSinh": added.ArcSinh, "X": transforms.X}
    case = line_for("arcsinh", names)
    for law in transforms.laws_of(case._replace(more=transforms.HARD)):
        law(case)


def test_the_column_kind_obeys_the_laws_of_kinds(added, monkeypatch):
    names = {**vars(columns), **vars(kinds), "NegativeColumn": added.NegativeColumn}
    case = line_for("losses", names)
    (text,) = re.findall(r"`KINDS = (\(.*?\))`", TEXT)
    assert kinds.kind_of(case.column) == kinds.ContinuousColumn()
    monkeypatch.setattr(kinds, "KINDS", eval(text, names))
    columns.check_kind(case)
    for name, other in columns.COLUMNS.items():
        columns.check_kind(other, name)


def test_the_trace_is_unbiased_for_every_matrix(added):
    trace = line_for("coordinates", vars(added))
    assert isinstance(trace, Estimator)
    matrix = jax.random.normal(KEY, (6, 6))

    @jax.vmap
    def estimates(key):
        v = trace.draw(key, (2, 3), float)
        flat = v.reshape(len(v), 6)
        return trace.estimate(jnp.sum(flat * (flat @ matrix.T), axis=1), v, 1.0)

    values, errors = estimates(jax.random.split(KEY, 4000))
    spread = float(jnp.std(values))
    expected = float(jnp.trace(matrix))
    assert errors is not None
    assert float(jnp.mean(values)) == pytest.approx(expected, abs=4.5 * spread / 4000**0.5)
    assert float(jnp.sqrt(jnp.mean(errors**2))) == pytest.approx(spread, rel=0.05)
    assert spread > 0.1


@pytest.mark.slow
def test_the_trace_obeys_the_law_of_stochastic_traces(added):
    trace = line_for("coordinates", vars(added))
    assert "coordinates" not in estimators((6,))
    check_unbiased(trace)


@pytest.mark.slow
def test_the_trace_works_wherever_a_flow_does(added, tmp_path):
    steps = ODE(solver="rk4", num_steps=4)
    a = jax.random.normal(KEY, (6, 6))
    flow = CNF(Linear(matrix=a), StandardNormal(6), trace=added.Coordinates(6), ode_eval=steps)
    x = jax.random.normal(KEY, (4, 6))
    exact = dataclasses.replace(flow, trace="exact").log_prob(x)
    # All of the coordinates leave nothing to chance.
    answer = flow.log_prob_with_error(x, key=KEY)
    np.testing.assert_allclose(answer.value, exact, rtol=1e-12)
    assert answer.trace_se is not None
    np.testing.assert_allclose(answer.trace_se, 0, atol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda x: flow.log_prob(x, key=KEY))(x), exact, rtol=1e-12)
    some = dataclasses.replace(flow, trace=added.Coordinates(2))
    # Written with the flow, and read with a template.
    jaxflow.save(tmp_path / "flow", some)
    read = jaxflow.load(tmp_path / "flow", like=eqx.filter_eval_shape(lambda: some))
    assert read.trace == some.trace
    np.testing.assert_array_equal(read.log_prob(x, key=KEY), some.log_prob(x, key=KEY))
    with pytest.raises(ValueError, match=r"Coordinates, a class outside jaxflow.*parts="):
        jaxflow.load(tmp_path / "flow")


def test_a_flow_is_trained_by_the_trace_and_the_objective(added):
    flow = CNF(
        MLP(2, width=8, depth=1, key=KEY),
        StandardNormal(2),
        trace=added.Coordinates(1),
        ode=ODE(solver="midpoint", num_steps=2),
        ode_eval=ODE(solver="midpoint", num_steps=4),
    )
    objective = added.NoisyLikelihood(0.1)
    settings = {"key": KEY, "config": CONFIG, "objective": objective, "transform": None}
    trained, history = jaxflow.fit(flow, X, weights=np.ones(300), **settings)
    x = jnp.asarray(X)
    start, end = (
        float(jnp.mean(dataclasses.replace(each, trace="exact").log_prob(x)))
        for each in (flow, trained)
    )
    assert end > start + 0.1
    assert history["loss"][1] < history["loss"][0]
    assert trained.trace == flow.trace


def test_the_objective_without_noise_is_the_likelihood(added):
    flow = CNF(Linear(2, key=KEY), StandardNormal(2))
    weights = jnp.arange(300.0)
    loss, _ = added.NoisyLikelihood(0.0)(flow, jnp.asarray(X), None, KEY, weights)
    likely, _ = jaxflow.objectives.maximum_likelihood(flow, jnp.asarray(X), None, KEY, weights)
    assert float(loss) == float(likely)
    with pytest.raises(ValueError, match=r"scale=-1\.0 must be"):
        added.NoisyLikelihood(-1.0)
