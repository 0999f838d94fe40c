"""Two small real tables for examples, from the copies that scikit-learn carries."""

from types import ModuleType

import numpy as np

from jaxflow.data.tables import Table


def breast_cancer() -> Table:
    """Measurements of 569 cell images, (569, 30) float64 (Wolberg et al. 1995, UCI).

    Raises:
        ImportError: scikit-learn is not installed; says how to install it.
    """
    data = _import_datasets().load_breast_cancer()
    return Table(np.asarray(data.data, np.float64), tuple(str(n) for n in data.feature_names))


def digits(seed: int) -> Table:
    """Grey levels of 1797 images of digits, 8 x 8, dequantised: (1797, 64) float64.

    A value is `y = x + u` with the level x in 0, 1, ..., 16 and u uniform on [0, 1), so it
    lies in [0, 17). A log-density of y, in nats, is on average at most the log-probability
    that the same model gives the levels: `E_u[log p(x + u)] <= log P(x)`, with
    `P(x) = integral of p(x + u) over the unit cube` (Theis et al. 2016, "A note on the
    evaluation of generative models").

    Args:
        seed: of the uniform noise u.

    Raises:
        ImportError: scikit-learn is not installed; says how to install it.
    """
    levels = np.asarray(_import_datasets().load_digits().data, np.float64)
    noise = np.random.default_rng(seed).random(levels.shape)
    # The sum may round up to the next level, which the noise itself never reaches.
    values = np.minimum(levels + noise, np.nextafter(levels + 1, levels))
    return Table(values, tuple(f"pixel_{i}_{j}" for i in range(8) for j in range(8)))


def _import_datasets() -> ModuleType:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "the demonstration tables need scikit-learn: pip install 'jaxflow-cnf[demo]'"
        ) from error
    return datasets
