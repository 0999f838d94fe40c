"""jaxflow with none of its extras: `make bare`.

Makes a fresh environment with the package's base dependencies alone, runs the README's ten lines
of Python in it (with fewer steps of training), and looks whether each thing that needs an extra
says so in one line that names the extra.

    python tests/bare.py
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
STEPS = 200
FLOW = "jaxflow.CNF(lambda t, x: -x, jaxflow.StandardNormal(2))"
# What needs each extra; a flow's own functions are called, for that is where a user meets it.
NEEDS = {
    "cli": ["import jaxflow.data; jaxflow.data.read_table('table.csv')"],
    "plot": [
        f"import jaxflow.plotting; jaxflow.plotting.density({FLOW})",
        "import jaxflow.plotting; jaxflow.plotting.history({'step': [1], 'loss': [1.0]})",
    ],
    "diffrax": [
        "jaxflow.odeint(lambda t, y, _: y, 1.0, 0, 1, ode=jaxflow.ODE(gradient='diffrax'))"
    ],
    "sklearn": ["import jaxflow.estimator", "jaxflow.GaussianMixture.fit(jax.numpy.eye(2), 1)"],
    "numpyro": ["import jaxflow.interop.numpyro"],
    "demo": ["import jaxflow.data; jaxflow.data.breast_cancer()"],
}
# Runs in the bare environment: a line of JSON with what each statement raised.
PROBE = """
import json, sys
import jax, jaxflow
said = {}
for code in json.load(sys.stdin):
    try:
        exec(code, {"jax": jax, "jaxflow": jaxflow})
    except ImportError as error:
        said[code] = str(error)
    except Exception as error:
        said[code] = repr(error)
print(json.dumps(said))
"""


def install(folder: Path) -> Path:
    """A fresh environment with the package and what it depends on; its interpreter."""
    venv.create(folder, with_pip=shutil.which("uv") is None, clear=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if (uv := shutil.which("uv")) is not None:
        pip = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*pip, str(ROOT)], check=True)
    return python


def ten_lines() -> str:
    """The README's code, with fewer steps of training."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert "fit(flow, x, key=key)" in code
    config = f"config=jaxflow.TrainConfig(steps={STEPS})"
    return code.replace("fit(flow, x, key=key)", f"fit(flow, x, key=key, {config})")


def main() -> None:
    """Install, run, ask; the first thing that is wrong ends it."""
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.monotonic()
        python = install(folder / "venv")
        print(f"installed in {time.monotonic() - start:.0f} s")

        def run(*command: str, given: str = "") -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, cwd=folder, input=given, capture_output=True, text=True, check=False
            )

        lines = run(str(python), "-W", "error", "-c", ten_lines())
        assert lines.returncode == 0, lines.stderr
        assert "(1000, 2)" in lines.stdout, lines.stdout
        print(f"the ten lines ran; {time.monotonic() - start:.0f} s")

        (folder / "table.csv").write_text("a,b\n1,2\n")
        codes = [code for each in NEEDS.values() for code in each]
        probe = run(str(python), "-c", PROBE, given=json.dumps(codes))
        assert probe.returncode == 0, probe.stderr
        said = json.loads(probe.stdout)
        for extra, statements in NEEDS.items():
            for code in statements:
                text = said.get(code)
                assert text is not None, f"{code} needs no extra, and was thought to need {extra}"
                assert "\n" not in text, text
                assert f"'.[{extra}]'" in text, f"{code} says {text!r}"
        command = run(str(python.parent / "jaxflow"), "--help")
        assert command.returncode == 1, command.stdout
        assert command.stderr.count("\n") == 1, command.stderr
        assert "'.[cli]'" in command.stderr, command.stderr
        print(f"each of {', '.join(NEEDS)} is asked for by name; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
