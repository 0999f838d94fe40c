"""Where a sample has too many points, according to a classifier."""

from typing import Any

import numpy as np
from jaxtyping import Float

from jaxflow.plotting.style import GREY, open_axes, pyplot


def excess(draws: Float[np.ndarray, "k d"], value: Float[np.ndarray, " k"], ax: Any = None) -> Any:
    """Draw a sample's first two columns, coloured by where it has too many or too few points.

    ```python
    import numpy as np
    from jaxflow import plotting

    draws = np.random.default_rng(0).normal(size=(200, 2))
    plotting.excess(draws, 0.1 * draws[:, 0])
    ```

    Args:
        draws: points, (k, d); with d = 1 the height of a point is its value.
        value: a classifier's probability of a draw minus 1/2, (k,): positive where draws are too
            many, negative where they are too few.
        ax: matplotlib axes; None for new ones.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    ax = open_axes(ax)
    # A few extreme draws do not set the colours of all.
    largest = max(float(np.quantile(np.abs(value), 0.98)), 1e-12)
    height = draws[:, 1] if draws.shape[1] > 1 else value
    order = np.argsort(np.abs(value))
    points = ax.scatter(
        *(draws[order, 0], height[order]),
        c=value[order],
        s=14,
        cmap="PuOr_r",
        vmin=-largest,
        vmax=largest,
        edgecolors=GREY,
        linewidths=0.3,
    )
    pyplot().colorbar(points, ax=ax, label="probability of a draw - 1/2", extend="both")
    ax.set(
        xlabel="theta 0", ylabel="theta 1" if draws.shape[1] > 1 else "probability of a draw - 1/2"
    )
    return ax
