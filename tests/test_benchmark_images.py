"""`benchmarks/images.py`: its baselines are densities, and a quick run has a table."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))
images = import_module("images")


def test_the_mixture_is_the_density_of_its_samples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2, 3, 1)) + 5 * rng.integers(0, 2, (400, 1, 1, 1))
    mixture = images.low_rank(x, 2, 2)
    roots = np.linalg.inv(np.asarray(mixture.whiten, np.float64))
    flat = x[:5].reshape(5, 6)
    parts = (np.asarray(part, np.float64) for part in (mixture.log_weights, mixture.means))
    each = [
        log_weight + multivariate_normal(mean, root @ root.T).logpdf(flat)
        for log_weight, mean, root in zip(*parts, roots, strict=True)
    ]
    found = jax.vmap(mixture.log_prob)(jnp.asarray(x[:5], jnp.float32))
    np.testing.assert_allclose(found, np.asarray(logsumexp(each, axis=0)), rtol=1e-4)
    drawn = jax.vmap(mixture.sample)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(drawn.mean(axis=0), x.mean(axis=0), atol=0.2)
    assert drawn.std() == pytest.approx(x.std(), rel=0.05)


def test_rows_are_cut_by_one_permutation():
    data = images.cut(np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1), (16, 18))
    order = np.random.default_rng(0).permutation(20)
    parts = [data.train, data.validation, data.test]
    np.testing.assert_array_equal(np.concatenate(parts).ravel(), order)
    assert [len(part) for part in parts] == [16, 2, 2]
    assert (data.bits, data.shape) == (8, (1, 1, 1))


@pytest.mark.slow
def test_a_quick_run_prints_a_figure_with_its_errors_for_each_model():
    command = [sys.executable, "images.py", "--quick"]
    run = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    for model in ("gaussian", "low-rank mixture", *images.RECIPES["digits"]):
        assert any(line.startswith(f"| {model} ") for line in run.stdout.splitlines()), run.stdout


@pytest.mark.slow
def test_a_quick_run_of_classes_has_a_share_for_each_guidance():
    command = [sys.executable, "images.py", "--quick", "--classes"]
    run = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    for scale in ("1", "1.5", "2", "3"):
        assert f"| guidance {scale} " in run.stdout
