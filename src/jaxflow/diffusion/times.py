"""The times of a chain or a sampler: so many, spaced in one way or another."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxflow.diffusion.schedule import Schedule
from jaxflow.runtime.checks import check_count

SPACINGS = ("time", "log_snr", "karras")
# Karras et al. 2022: noise levels are evenly spaced in sigma^(1 / RHO).
RHO = 7.0


def times_of(schedule: Schedule, num_steps: int, spacing: str) -> Float[np.ndarray, " times"]:
    """`num_steps + 1` times from the schedule's end to its start.

    Args:
        schedule: alpha and sigma.
        num_steps: steps between them.
        spacing: even in `"time"`, in `"log_snr"`, or as in `"karras"`, in `(sigma / alpha)^(1/7)`.

    Raises:
        ValueError: an unknown spacing, or no step.
    """
    check_count("num_steps", num_steps)
    if spacing not in SPACINGS:
        raise ValueError(f"spacing={spacing!r} is unknown; choose one of {SPACINGS}")
    even = np.linspace(0.0, 1.0, num_steps + 1)
    if spacing == "time":
        return schedule.end + even * (schedule.start - schedule.end)
    with jax.ensure_compile_time_eval():
        noisy, clean = (float(schedule.log_snr(s)) for s in (schedule.end, schedule.start))
        if spacing == "log_snr":
            wanted = noisy + even * (clean - noisy)
        else:
            first, last = (math.exp(-0.5 * snr / RHO) for snr in (noisy, clean))
            wanted = -2 * RHO * np.log(first + even * (last - first))
        times = np.array(schedule.time_of(jnp.asarray(wanted)), float)
    # Bisection ends a rounding error short of them.
    times[[0, -1]] = schedule.end, schedule.start
    return times
