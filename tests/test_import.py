"""Importing the library changes no setting of jax, and loads nothing that it may do without."""

import os
import subprocess
import sys
from importlib.resources import files

SCRIPT = """
import sys
import jax
import jax.numpy, equinox
before = dict(jax.config.values)
import jaxflow
after = dict(jax.config.values)
changed = {name for name in before | after if before.get(name) != after.get(name)}
assert len(before) > 20
assert not changed, changed
assert not jax.config.jax_enable_x64
names = [name for name in jaxflow.__all__ if not hasattr(jaxflow, name)]
assert not names, names
optional = {"blackjax", "diffrax", "matplotlib", "numpyro", "polars", "sklearn", "typer"}
assert not optional & sys.modules.keys(), optional & sys.modules.keys()
# Refused once jax has started its devices: a program may still choose them.
jax.config.update("jax_num_cpu_devices", 3)
assert len(jax.devices("cpu")) == 3
print("untouched")
"""


def test_import_leaves_the_settings_of_jax_alone():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert run.stdout.strip() == "untouched", run.stderr


def test_the_package_says_that_it_is_typed():
    assert (files("jaxflow") / "py.typed").is_file()
