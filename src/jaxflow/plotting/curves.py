"""The curves of a training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxflow.plotting.style import BLUE, VERMILION, Number, pyplot


def history(history: Mapping[str, Sequence[Number]], ax: Any = None) -> Any:
    """Draw the curves of a training: the loss, and the held-out value whose best was kept.

    Args:
        history: what `jaxflow.fit` returns.
        ax: matplotlib axes; None for new ones.

    Returns:
        The axes.

    Raises:
        ValueError: the history lacks a column, or has no rows.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    missing = [name for name in ("step", "loss", "validation") if name not in history]
    if missing:
        raise ValueError(f"history has no {', '.join(missing)}; give what jaxflow.fit returned")
    if not history["step"]:
        raise ValueError("history has no rows: no validation has been made yet")
    ax = plt.subplots()[1] if ax is None else ax
    step, validation = history["step"], np.asarray(history["validation"], float)
    ax.plot(step, history["loss"], color=BLUE, linewidth=1.2, label="training")
    ax.plot(step, validation, color=VERMILION, linewidth=1.6, label="held out")
    if np.isfinite(validation).any():
        best = int(np.nanargmin(np.where(np.isfinite(validation), validation, np.nan)))
        ax.plot(
            step[best],
            validation[best],
            "o",
            color=VERMILION,
            markersize=5,
            label=f"best: {validation[best]:.3f} nats at step {step[best]:.0f}",
        )
    ax.set(xlabel="step", ylabel="mean negative log-density, nats")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax
