"""Files that jaxflow 0.1.0 wrote load and give the log-densities that they gave then."""

import json
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import jaxflow
from jaxflow.runtime.moved import MOVED

FILES = Path(__file__).parent / "files_of_0_1"
EXPECTED = json.loads((FILES / "expected.json").read_text())
X = np.asarray(EXPECTED["x"], np.float32)
COND = np.asarray(EXPECTED["cond"], np.float32)


@pytest.mark.parametrize("name", ["cnf", "coupling", "diffusion"])
def test_a_file_of_0_1_loads(name):
    flow = jaxflow.load(FILES / f"{name}.safetensors")
    if name == "cnf":
        assert flow.trace == jaxflow.Hutchinson(4)
        flow = replace(flow, trace="exact")
    log_p = flow.log_prob(X, COND if name == "cnf" else None)
    # Solves at tolerances of 1e-4 and 1e-5, compiled with other flags than then.
    np.testing.assert_allclose(log_p, EXPECTED[name], atol=1e-4)


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_name_warns_and_gives_the_same_names(old):
    with pytest.warns(DeprecationWarning, match=rf"{old} has moved to {MOVED[old][0]}"):
        module = import_module(old)
    for place in MOVED[old]:
        for name, value in vars(import_module(place)).items():
            if getattr(value, "__module__", None) == place:
                assert getattr(module, name) is value
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_old_imports_still_find_what_users_imported():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from jaxflow.checkpoint import load_extra  # pyright: ignore[reportMissingImports]
        from jaxflow.flow import CNF  # pyright: ignore[reportMissingImports]
        from jaxflow.model import Flow  # pyright: ignore[reportMissingImports]
        from jaxflow.paths import Linear  # pyright: ignore[reportMissingImports]
    assert CNF is jaxflow.CNF
    assert load_extra(FILES / "cnf.safetensors") == {"columns": ["a", "b"]}
    assert Linear().__class__.__module__ == "jaxflow.density.paths"
    assert issubclass(CNF, Flow)
