"""Samplers of diffusion models: each is a rule for one step from a noisier to a cleaner time.

To add a sampler, write a `Rule` in its own file and name it in `SAMPLERS`: `draw` takes it,
and `jaxflow sample --sampler NAME` offers it, with the first line of its docstring as its help.
"""

from collections.abc import Callable
from functools import partial

from jaxflow.diffusion.steppers.ancestral import Ancestral
from jaxflow.diffusion.steppers.ancestral import EulerMaruyama as EulerMaruyama
from jaxflow.diffusion.steppers.deterministic import DDIM, DPMSolver, Heun
from jaxflow.diffusion.steppers.langevin import Langevin, PredictorCorrector
from jaxflow.diffusion.steppers.rule import Move as Move
from jaxflow.diffusion.steppers.rule import Rule

SAMPLERS: dict[str, Callable[[], Rule]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "heun": Heun,
    "dpm": DPMSolver,
    "langevin": partial(Langevin, steps=4, ratio=0.7),
    "corrected": PredictorCorrector,
}
"""Constructors of the samplers by name: `SAMPLERS[name]()` is a rule with good settings, and its
`default_steps` a good number of steps."""
