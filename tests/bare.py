"""jaxflow without its extras: `make bare`.

Makes a fresh environment with only the package's own dependencies, runs the README's ten lines of
Python in it (with fewer steps of training), and checks that everything that needs an extra raises
an error of one line that names the extra.

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
# Statements that need each extra, as a user would write them.
NEEDS = {
    "cli": ["import jaxflow.data; jaxflow.data.read_table('table.csv')"],
    "plot": [
        f"import jaxflow.plotting; jaxflow.plotting.density({FLOW})",
        "import jaxflow.plotting as p; p.history(dict(step=[1], loss=[1.0], validation=[1.0]))",
    ],
    "sklearn": ["import jaxflow.estimator"],
    "numpyro": ["import jaxflow.interop.numpyro"],
    "arviz": ["import jaxflow.interop.arviz as a; a.to_xarray(jax.numpy.eye(2))"],
    "demo": ["import jaxflow.data; jaxflow.data.breast_cancer()"],
}
# Runs in the bare environment and prints, as JSON, the error of each statement.
PROBE = """
import json, sys
import jax, jaxflow
errors = {}
for code in json.load(sys.stdin):
    try:
        exec(code, {"jax": jax, "jaxflow": jaxflow})
    except ImportError as error:
        errors[code] = str(error)
    except Exception as error:
        errors[code] = repr(error)
print(json.dumps(errors))
"""


def install(folder: Path) -> Path:
    """Make a fresh environment with the package and its dependencies; return its interpreter."""
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
    """Install, run the ten lines, check the errors; stop at the first failure."""
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
        errors = json.loads(probe.stdout)
        for extra, statements in NEEDS.items():
            for code in statements:
                text = errors.get(code)
                assert text is not None, f"{code} ran without the extra {extra}"
                assert "\n" not in text, text
                assert f"'.[{extra}]'" in text, f"{code} says {text!r}"
        command = run(str(python.parent / "jaxflow"), "--help")
        assert command.returncode == 1, command.stdout
        assert command.stderr.count("\n") == 1, command.stderr
        assert "'.[cli]'" in command.stderr, command.stderr
        print(
            f"each of {', '.join(NEEDS)} is named by its error; {time.monotonic() - start:.0f} s"
        )


if __name__ == "__main__":
    main()
