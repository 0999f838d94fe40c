"""The README's code runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("steps", [400, pytest.param(None, marks=pytest.mark.slow)])
def test_the_ten_lines_run(tmp_path, steps):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    if steps is not None:
        # With fewer steps of training; as it stands among the longer checks.
        assert "fit(flow, x, key=key)" in code
        config = f"config=jaxflow.TrainConfig(steps={steps})"
        code = code.replace("fit(flow, x, key=key)", f"fit(flow, x, key=key, {config})")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "(1000, 2)" in run.stdout
    assert "nan" not in run.stdout
    assert (tmp_path / "flow.safetensors").exists()
