"""Imports of optional packages, with errors that say how to install them."""

import importlib
from types import ModuleType


def install_extra(extra: str) -> str:
    """Command that installs an extra of jaxflow, such as `plot`."""
    return f"pip install '.[{extra}]' in a checkout of jaxflow"


def import_extra(module: str, extra: str, need: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: dotted name, such as `"matplotlib.pyplot"`.
        extra: extra of jaxflow that installs it, such as `"plot"`.
        need: start of the error text, such as `"plotting needs matplotlib"`.

    Returns:
        The module.

    Raises:
        ImportError: the package is not installed; the message has the command that installs it.
    """
    try:
        importlib.import_module(module.partition(".")[0])
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{need}: {install_extra(extra)}") from error
