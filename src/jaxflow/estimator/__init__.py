"""Flows as scikit-learn estimators: `fit`, `score_samples`, `sample`, `predict`.

```python
from jaxflow.estimator import FlowDensity

density = FlowDensity(random_state=0).fit(X)
density.score_samples(X)
```
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "jaxflow.estimator needs scikit-learn: pip install 'jaxflow-cnf[sklearn]'"
    ) from error

from jaxflow.estimator.conditional import ConditionalFlowDensity
from jaxflow.estimator.density import FlowDensity

__all__ = ["ConditionalFlowDensity", "FlowDensity"]
