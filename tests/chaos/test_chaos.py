"""The scripts beside this file, in short; `make chaos` runs them at length."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("hostile_files.py", ("--files", "120")),
        pytest.param("kill_resume.py", ("--times", "2"), marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost_and_nothing_harms(script, options):
    command = [sys.executable, str(HERE / script), *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
