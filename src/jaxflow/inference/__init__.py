"""Simulation-based inference: posteriors and likelihoods of simulators, with exact densities."""

from jaxflow.inference.fit import fit_likelihood, fit_posterior
from jaxflow.inference.importance import WeightedPosterior, importance_sample
from jaxflow.inference.likelihood import Likelihood, compose
from jaxflow.inference.nuts import Chains
from jaxflow.inference.posterior import Inside, Posterior
from jaxflow.inference.priors import Prior, as_prior
from jaxflow.inference.rounds import fit_rounds, truncated_prior
from jaxflow.inference.settings import Settings

__all__ = [
    "Chains",
    "Inside",
    "Likelihood",
    "Posterior",
    "Prior",
    "Settings",
    "WeightedPosterior",
    "as_prior",
    "compose",
    "fit_likelihood",
    "fit_posterior",
    "fit_rounds",
    "importance_sample",
    "truncated_prior",
]
