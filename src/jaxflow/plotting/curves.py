"""The curves of a training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxflow.plotting.style import BLUE, GREY, VERMILION, Number, open_axes


def history(history: Mapping[str, Sequence[Number]], ax: Any = None) -> Any:
    """Draw the training loss, the held-out loss, and the step whose weights were kept.

    Losses of stages before the last one, such as flow matching before likelihood, are other
    quantities: they are drawn dashed, against an axis on the right.

    ```python
    from jaxflow import plotting

    plotting.history({"step": [1, 2], "loss": [3.0, 2.0], "validation": [3.1, 2.2]})
    ```

    Args:
        history: the history that `jaxflow.fit` returned.
        ax: matplotlib axes; None for new ones.

    Returns:
        The axes.

    Raises:
        ValueError: the history lacks a column or is empty.
        ImportError: matplotlib is not installed.
    """
    missing = [name for name in ("step", "loss", "validation") if name not in history]
    if missing:
        raise ValueError(
            f"history has no {', '.join(missing)}; pass the history that jaxflow.fit returned"
        )
    if not history["step"]:
        raise ValueError("history has no rows: train until the first validation")
    ax = open_axes(ax)
    step, validation = history["step"], np.asarray(history["validation"], float)
    stage = np.asarray(history.get("stage", np.zeros(len(step))))
    is_last = stage == stage[-1]
    steps, loss = np.asarray(step), np.asarray(history["loss"], float)
    ax.plot(steps[is_last], loss[is_last], color=BLUE, linewidth=1.2, label="training")
    if not is_last.all():
        _draw_earlier_stages(ax, steps[~is_last], loss[~is_last], stage[~is_last])
    ax.plot(step, validation, color=VERMILION, linewidth=1.6, label="held out")
    finite = np.isfinite(validation)
    if finite.any():
        best = int(np.argmin(np.where(finite, validation, np.inf)))
        label = f"best: {validation[best]:.3f} nats at step {step[best]:.0f}"
        at = (step[best], validation[best])
        ax.plot(*at, "o", color=VERMILION, markersize=5, label=label)
    ax.set(xlabel="step", ylabel="mean negative log-density, nats")
    ax.legend(frameon=False)
    return ax


def _draw_earlier_stages(ax: Any, step: np.ndarray, loss: np.ndarray, stage: np.ndarray) -> None:
    """Draw the losses of the stages before the last one against an axis on the right."""
    right = ax.twinx()
    for number in np.unique(stage):
        own = stage == number
        right.plot(step[own], loss[own], "--", color=GREY, linewidth=1.2)
    right.set_ylabel("loss of the stages before (dashed)")
    ax.plot([], [], "--", color=GREY, label="training, stages before")
    ax.axvline(step[-1], color=GREY, linewidth=0.8, alpha=0.5)
    # The curves of the last stage stay in front.
    ax.set_zorder(right.get_zorder() + 1)
    ax.patch.set_visible(False)
