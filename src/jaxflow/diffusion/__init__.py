"""Diffusion models: schedules, denoisers, DDPM, NCSN, samplers, guidance, and their likelihood.

The other half of the lecture that this library follows. A denoiser is one network under a noise
schedule; DDPM and NCSN are two schedules of it; its probability-flow ODE is a `CNF`.

```python
denoiser = Denoiser(MLP(2, key=key), VariancePreserving())
flow, _ = jaxflow.fit(as_flow(denoiser, (2,)), x, key=key, objective=Denoising())
flow.log_prob(x)
draw(flow, key, 1000, sampler=Ancestral(), num_steps=200)
```
Diffusions count time from data to noise: `s = 1 - t`, in this package alone.
"""

from jaxflow.diffusion import score_matching
from jaxflow.diffusion.bound import Bound, bits_per_dim, elbo, prior_gap
from jaxflow.diffusion.ddpm import posterior, step_loss, transition
from jaxflow.diffusion.denoiser import AbstractDenoiser, Denoiser, KnownDenoiser, network_inputs
from jaxflow.diffusion.guidance import (
    ClassifierFree,
    Guided,
    classifier_guide,
    measurement_guide,
)
from jaxflow.diffusion.predictions import PREDICTIONS, convert, noise_shares, shares
from jaxflow.diffusion.probability_flow import ProbabilityFlow, as_flow, denoiser_of, from_flow
from jaxflow.diffusion.samplers import draw
from jaxflow.diffusion.schedule import Schedule, check_schedule
from jaxflow.diffusion.schedules import (
    Betas,
    Cosine,
    Custom,
    Straight,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from jaxflow.diffusion.sde import draw_sde
from jaxflow.diffusion.steppers import (
    DDIM,
    SAMPLERS,
    Ancestral,
    DPMSolver,
    EulerMaruyama,
    Heun,
    Langevin,
    Move,
    PredictorCorrector,
    Rule,
)
from jaxflow.diffusion.times import times_of

__all__ = [
    "DDIM",
    "PREDICTIONS",
    "SAMPLERS",
    "AbstractDenoiser",
    "Ancestral",
    "Betas",
    "Bound",
    "ClassifierFree",
    "Cosine",
    "Custom",
    "DPMSolver",
    "Denoiser",
    "EulerMaruyama",
    "Guided",
    "Heun",
    "KnownDenoiser",
    "Langevin",
    "Move",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Rule",
    "Schedule",
    "Straight",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
    "as_flow",
    "bits_per_dim",
    "check_schedule",
    "classifier_guide",
    "convert",
    "denoiser_of",
    "draw",
    "draw_sde",
    "elbo",
    "from_flow",
    "measurement_guide",
    "network_inputs",
    "noise_shares",
    "posterior",
    "prior_gap",
    "score_matching",
    "shares",
    "step_loss",
    "times_of",
    "transition",
]
