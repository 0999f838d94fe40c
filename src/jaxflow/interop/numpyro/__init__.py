"""Flows in NumPyro: as prior, as likelihood, and as what a model's posterior is fitted by.

```python
def model(x):
    theta = numpyro.sample("theta", FlowDistribution(prior))
    numpyro.sample("x", FlowDistribution(flow, cond=theta), obs=x)
```
"""

try:
    import numpyro as _numpyro  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "jaxflow.interop.numpyro needs NumPyro: pip install 'jaxflow-cnf[numpyro]'"
    ) from error

from jaxflow.interop.numpyro.distribution import FlowDistribution
from jaxflow.interop.numpyro.target import Target, target_of

__all__ = ["FlowDistribution", "Target", "target_of"]
