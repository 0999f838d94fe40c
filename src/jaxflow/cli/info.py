"""`jaxflow info`: what a run directory holds."""

from pathlib import Path
from typing import Any

from jaxflow.cli import run_directory
from jaxflow.cli.guidance import diffuses
from jaxflow.cli.models import Field, Objective, Settings
from jaxflow.cli.outcome import held_out_text, prior_row
from jaxflow.cli.reports import counted, show


def info(
    run: run_directory.Run,
) -> None:
    """Show what a run was fitted to, how, and how well."""
    run_directory.check_run(run)
    finished = (run / run_directory.FLOW).exists()
    record = run_directory.read_run(run) if finished else run_directory.read_record(run)
    show(facts_of(run, record), record)


def facts_of(run: Path, record: dict[str, Any]) -> dict[str, str]:
    """What a run was fitted to, how, and how well, label -> words."""
    finished = (run / run_directory.FLOW).exists()
    settings = record["settings"]
    network = settings["field"]
    if network == Field.auto:
        network = Settings(**settings).network
    field = f" ({network})" if settings["model"] == "cnf" else ""
    kind = f"diffusion, {settings['objective']}" if diffuses(record) else settings["model"]
    rows = {
        "run": str(run),
        **_data(record),
        "columns": ", ".join(record["columns"]),
        **({"classes": ", ".join(record["classes"])} if record.get("classes") else {}),
        "model": f"{kind}{field}, width {settings['width']}, "
        f"depth {settings['depth']}, {'float64' if settings['float64'] else 'float32'}",
    }
    if finished:
        rows |= {
            "transform": record["transform"],
            **prior_row(record),
            "quality" if "log_z" in record else "held-out": held_out_text(record),
            "time": f"{record['seconds']:.1f} s, {counted(record['steps'], 'step')}",
        }
    else:
        rows["state"] = _state(run, settings["steps"])
    rows["seed"] = str(settings["seed"])
    rows["made by"] = f"jaxflow {record['jaxflow']}, jax {record['versions']['jax']}"
    return rows


def _data(record: dict[str, Any]) -> dict[str, str]:
    if record["settings"]["objective"] == Objective.reverse_kl:
        return {"target": record["table"]}
    return {"table": f"{record['table']}, {counted(record['rows'], 'row')}"}


def _state(run: Path, steps: int) -> str:
    from jaxflow.io.checkpoint import load_extra

    path = run / run_directory.STATE
    done = load_extra(path)["step"] if path.exists() else 0
    return f"interrupted at step {done} of {steps}; go on with jaxflow fit ... --resume"
