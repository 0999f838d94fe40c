"""Diffusion models: schedules, denoisers, DDPM, NCSN, samplers, guidance, and their likelihood.

A denoiser is a network with a noise schedule; DDPM and NCSN differ in the schedule. The
probability-flow ODE of a denoiser is a `CNF`, so log-densities are exact.

```python
import jax, jaxflow
from jaxflow.diffusion import Ancestral, Denoiser, VariancePreserving, as_flow, draw
from jaxflow.dynamics import MLP
from jaxflow.objectives import Denoising

key = jax.random.key(0)
x = jax.random.normal(key, (200, 2))
denoiser = Denoiser(MLP(2, width=16, depth=1, key=key), VariancePreserving())
config = jaxflow.TrainConfig(steps=20)
flow, _ = jaxflow.fit(as_flow(denoiser, 2), x, key=key, objective=Denoising(), config=config)
print(flow.log_prob(x[:5]))
samples = draw(flow, key, 10, sampler=Ancestral(), num_steps=200)
```

In this package alone time counts from data to noise: `s = 1 - t`.
"""

from jaxflow.diffusion import score_matching
from jaxflow.diffusion.bound import Bound, bits_per_dim, elbo, prior_gap
from jaxflow.diffusion.ddpm import posterior, step_loss, transition
from jaxflow.diffusion.denoiser import AbstractDenoiser, Denoiser, KnownDenoiser, network_inputs
from jaxflow.diffusion.guidance import ClassifierFree, Guided, classifier_guide, measurement_guide
from jaxflow.diffusion.predictions import PREDICTIONS, convert, noise_shares, shares
from jaxflow.diffusion.probability_flow import ProbabilityFlow, as_flow, denoiser_of, from_flow
from jaxflow.diffusion.samplers import draw
from jaxflow.diffusion.schedule import Schedule, check_schedule, times_of
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
from jaxflow.diffusion.steppers import SAMPLERS
from jaxflow.diffusion.steppers.ancestral import Ancestral, EulerMaruyama
from jaxflow.diffusion.steppers.deterministic import DDIM, DPMSolver, Heun
from jaxflow.diffusion.steppers.langevin import Langevin, PredictorCorrector
from jaxflow.diffusion.steppers.rule import Move, Rule

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
    "classifier_guide",
    "convert",
    "denoiser_of",
    "draw",
    "draw_sde",
    "elbo",
    "from_flow",
    "measurement_guide",
    "posterior",
    "prior_gap",
    "score_matching",
    "shares",
    "step_loss",
    "times_of",
    "transition",
]
