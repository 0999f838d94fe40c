"""`jaxflow info`, and the facts about a run that other commands print too."""

import shlex
from pathlib import Path
from typing import Any

from jaxflow.cli.images import image_text
from jaxflow.cli.options import Run
from jaxflow.cli.record import IMAGES, is_diffusion, settings_of, trained_on_all
from jaxflow.cli.run_directory import FLOW, STATE, check_run, read_finished, read_record
from jaxflow.cli.target_fit import target_text
from jaxflow.cli.terminal import print_facts
from jaxflow.io.checkpoint import load_extra
from jaxflow.runtime.text import plural
from jaxflow.training.comparison import nats
from jaxflow.training.fit_images import WIDTH


def info(run: Run) -> None:
    """Show the data, model and quality of a run."""
    check_run(run)
    record = read_finished(run) if (run / FLOW).exists() else read_record(run)
    print_facts(run_facts(run, record), record)


def run_facts(run: Path, record: dict[str, Any]) -> dict[str, str]:
    """Describe a run, finished or not: label -> text."""
    settings = settings_of(record)
    kind = f"diffusion, {settings.objective}" if is_diffusion(record) else settings.model
    network = f" ({settings.network})" if settings.model == "cnf" else ""
    if settings.objective == "reverse-kl":
        data = {"target": record["table"]}
    elif IMAGES in record:
        data = {"images": f"{record['table']}, {image_text(record)}"}
    else:
        data = {"table": f"{record['table']}, {plural(record['rows'], 'row')}"}
    precision = "float64" if settings.float64 else "float32"
    size = f"width {settings.width or 'by the rows'}, depth {settings.depth}, {precision}"
    if IMAGES in record:
        network, size = " (U-Net)", f"width {settings.width or WIDTH}, {precision}"
    if (run / FLOW).exists():
        results = _result_facts(record)
    else:
        state = run / STATE
        done = load_extra(state)["step"] if state.exists() else 0
        results = {
            "state": f"interrupted at step {done} of {settings.steps}; continue with jaxflow fit "
            "... --resume"
        }
    return {
        "run": str(run),
        **data,
        **_column_facts(record),
        "model": f"{kind}{network}, {size}",
        **results,
        "seed": str(settings.seed),
        "made by": f"jaxflow {record['jaxflow']}, jax {record['versions']['jax']}",
    }


def print_outcome(record: dict[str, Any], out: Path) -> None:
    """Print the results of a fit, and the command to run next."""
    next_command = ["jaxflow", "sample", str(out), "--out", "samples.csv"]
    if IMAGES in record:
        next_command[-2:] = ["--grid", "samples.png"]
    if "log_z" in record:
        data = {"target": record["table"]}
    else:
        dropped = f", {record['rows_dropped']} dropped" if record["rows_dropped"] else ""
        held = record["rows_held_out"]
        text = f"{record['rows'] - held} for training, {held} held out"
        if trained_on_all(record):
            text = f"{record['rows']}, all for training after the folds"
        data = {"images" if IMAGES in record else "rows": text + dropped}
    print_facts(
        {
            **data,
            **_column_facts(record),
            **_result_facts(record),
            "run": str(out),
            "next": shlex.join(next_command),
        },
        record | {"run": str(out)},
    )


def _column_facts(record: dict[str, Any]) -> dict[str, str]:
    names = {name: record.get(name) for name in ("columns", "given", "classes")}
    return {label: ", ".join(each) for label, each in names.items() if each}


def _result_facts(record: dict[str, Any]) -> dict[str, str]:
    facts = {"transform": record["transform"]}
    if record.get("prior_gap") is not None:
        facts["prior"] = f"misses the noised data by {record['prior_gap']:.2g} nats per row"
    if "log_z" in record:
        facts["quality"] = target_text(record)
    else:
        facts |= _held_out_facts(record)
    text = f"{record['seconds']:.1f} s, {plural(record['steps'], 'step')}"
    verdict = record.get("steps_verdict")
    return facts | {"training": f"{text}, {verdict}" if verdict else text}


def _held_out_facts(record: dict[str, Any]) -> dict[str, str]:
    """The held-out log-density, and those of simple densities if the fit compared them."""
    if IMAGES in record:
        return {"held-out": record["bits_per_dim"]}
    if "comparison" not in record:
        error = record["validation_se"]
        return {
            "held-out": f"{_number(-record['validation'], error)} nats per row: log-density of "
            f"{plural(record['rows_held_out'], 'held-out row')}, higher is better (they also "
            "chose the best weights)"
        }
    comparison = record["comparison"]
    facts = {"held-out": f"log-density in nats per row, higher is better, {comparison['rows']}"}
    for name, numbers in comparison["densities"].items():
        text = _number(numbers["mean"], numbers["se"])
        if name != "flow":
            text += f"; the flow {_number(numbers['flow_gain'], numbers['flow_gain_se'], '+')}"
        facts[f"  {name}"] = text
    return facts | ({"verdict": comparison["verdict"]} if comparison["verdict"] else {})


def _number(value: float | None, error: float | None, sign: str = "") -> str:
    """A number with its standard error; the latter is None for a single row."""
    text = "unknown" if value is None else nats(value, sign)
    return text if error is None else f"{text} +- {nats(error)}"
