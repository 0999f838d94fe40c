"""The curves of a training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxflow.plotting.style import BLUE, VERMILION, Number, open_axes


def history(history: Mapping[str, Sequence[Number]], ax: Any = None) -> Any:
    """Draw the training loss, the held-out loss, and the step whose weights were kept.

    ```python
    from jaxflow import plotting

    plotting.history({"step": [1, 2], "loss": [3.0, 2.0], "validation": [3.1, 2.2]})
    ```

    Args:
        history: history that `jaxflow.fit` returned.
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
    ax.plot(step, history["loss"], color=BLUE, linewidth=1.2, label="training")
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
