"""Old places of 0.1: modules that have moved (with a warning, until 0.3), and single names."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "jaxflow.accuracy": ("jaxflow.density.error",),
    "jaxflow.audit": ("jaxflow.density.error",),
    "jaxflow.cells": ("jaxflow.transforms.dequantise", "jaxflow.flows.log_mass"),
    "jaxflow.checkpoint": ("jaxflow.io.checkpoint",),
    "jaxflow.chunks": ("jaxflow.runtime.chunking",),
    "jaxflow.continuity": ("jaxflow.density.continuity",),
    "jaxflow.counts": ("jaxflow.runtime.checks",),
    "jaxflow.data.atomic": ("jaxflow.io.atomic",),
    "jaxflow.data.checks": ("jaxflow.runtime.checks",),
    "jaxflow.devices": ("jaxflow.runtime.devices",),
    "jaxflow.diagnostics.picture": ("jaxflow.plotting.diagnosis",),
    "jaxflow.diffusion.times": ("jaxflow.diffusion.schedule",),
    "jaxflow.discrete": ("jaxflow.flows.coupling", "jaxflow.density.change_of_variables"),
    "jaxflow.divergence": ("jaxflow.density.continuity", "jaxflow.density.probes"),
    "jaxflow.flow": ("jaxflow.flows.cnf",),
    "jaxflow.flow_map": ("jaxflow.flows.flow_map",),
    "jaxflow.importance": ("jaxflow.flows.importance",),
    "jaxflow.model": (
        "jaxflow.flows.flow",
        "jaxflow.flows.data_space",
        "jaxflow.training.trainable",
    ),
    "jaxflow.paths": ("jaxflow.density.paths",),
    "jaxflow.penalties": ("jaxflow.objectives.penalties",),
    "jaxflow.placement": ("jaxflow.runtime.mesh",),
    "jaxflow.precision": ("jaxflow.runtime.precision",),
    "jaxflow.processes": ("jaxflow.runtime.processes",),
    "jaxflow.progress": ("jaxflow.runtime.progress",),
    "jaxflow.rows": ("jaxflow.runtime.arguments",),
    "jaxflow.serialisation": ("jaxflow.io.serialisation",),
    "jaxflow.training.source": ("jaxflow.training.minibatches",),
    "jaxflow.training.stages": ("jaxflow.training.phases",),
    "jaxflow.training.store": ("jaxflow.training.checkpoints",),
    "jaxflow.training.usual": ("jaxflow.training.defaults",),
}
# Names that rooms had in 0.1, and the rooms above them that have them today.
MOVED_NAMES: dict[str, dict[str, str]] = {"jaxflow.transforms": {"log_mass": "jaxflow.flows"}}


def moved_name(module: str, name: str) -> Any:
    """The value of a name that has moved from `module`; to be called by its `__getattr__`."""
    if name not in MOVED_NAMES[module]:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return getattr(importlib.import_module(MOVED_NAMES[module][name]), name)


def new_module(name: str) -> str:
    """The present name of a module; of one that was split, its first part."""
    return MOVED.get(name, (name,))[0]


class _OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module by its old name: an empty one that looks names up in the new places."""

    def find_spec(
        self, fullname: str, path: Any, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        old, places = module.__name__, MOVED[module.__name__]

        def look_up(name: str) -> Any:
            for place in places:
                value = getattr(importlib.import_module(place), name, _MISSING)
                if value is not _MISSING:
                    return value
            raise AttributeError(f"module {old!r} has no attribute {name!r}")

        warnings.warn(
            f"{old} has moved to {' and '.join(places)}; the old name goes in jaxflow 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        vars(module)["__getattr__"] = look_up


_MISSING = object()


def redirect_old_modules() -> None:
    """Let imports of old module names find the new modules."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())
