"""Pictures for several settings: side by side, and with sliders in a notebook."""

import sys
from importlib.util import find_spec
from typing import Any

from jaxflow.plotting.style import Number, pyplot


def explore(
    draw: Any,
    /,
    *,
    figsize: tuple[Number, Number] | None = None,
    **settings: Any,
) -> Any:
    """Draw one picture for each value of the first setting; in a notebook, add sliders.

    In the row of pictures the other settings have their first values. In an IPython kernel with
    ipywidgets (the extra `notebook`) a slider for each setting follows, with the picture of the
    values that they show.

    ```python
    import numpy as np
    from jaxflow import plotting


    def wave(ax, frequency, phase):
        t = np.linspace(0.0, 1.0, 200)
        ax.plot(t, np.sin(2 * np.pi * frequency * t + phase))


    figure = plotting.explore(wave, frequency=[1, 2, 4], phase=[0.0, 1.5])
    ```

    Args:
        draw: a function; `draw(ax, **values)` draws one picture, with one value for each setting.
            The title is that of the first setting, `frequency = 1`, unless `draw` sets another.
        figsize: width and height of the row in inches; None for 3 by 3 a picture.
        **settings: the values of each setting, a sequence or a 1-D array.

    Returns:
        The figure of the row, whose pictures share their axes.

    Raises:
        TypeError: `draw` is not a function, or a setting is not a sequence.
        ValueError: there is no setting, or one without a value.
        ImportError: matplotlib is not installed.
    """
    if not callable(draw):
        raise TypeError(f"draw={draw!r} must be a function draw(ax, **values)")
    if not settings:
        raise ValueError("explore needs a setting and its values: explore(draw, gamma=[0, 1, 2])")
    choices = {name: _choices(name, values) for name, values in settings.items()}
    first = next(iter(choices))
    start = {name: values[0] for name, values in choices.items()}
    plt, size = pyplot(), figsize or (3 * len(choices[first]), 3)

    def row(many: list[Any], size: tuple[Number, Number], values: dict[str, Any]) -> Any:
        figure, axes = plt.subplots(
            1,
            len(many),
            figsize=size,
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for ax, value in zip(axes[0], many, strict=True):
            ax.set_title(f"{first} = {_label(value)}")
            draw(ax, **{**values, first: value})
        return figure

    figure = row(choices[first], size, start)
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    if ipython and hasattr(shell, "kernel") and find_spec("ipywidgets"):
        import ipywidgets  # pyright: ignore[reportMissingImports]

        def redraw(**values: Any) -> None:
            show(row([values[first]], (4.5, 4), values))

        def show(figure: Any) -> None:
            ipython.display.display(figure)
            plt.close(figure)

        sliders = {
            name: ipywidgets.SelectionSlider(
                options=[(_label(value), value) for value in values],
                description=name,
                continuous_update=False,
            )
            for name, values in choices.items()
        }
        show(figure)
        picture = ipywidgets.interactive_output(redraw, sliders)
        ipython.display.display(ipywidgets.VBox([*sliders.values(), picture]))
    return figure


def _choices(name: str, values: Any) -> list[Any]:
    """The values of a setting; those of an array as Python numbers."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name}={values!r} must be a sequence: {name}=[{values!r}]")
    values = list(values)
    if not values:
        raise ValueError(f"{name}={values!r} must have at least one value")
    return values


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
