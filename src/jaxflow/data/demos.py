"""Two small real tables for examples, from the copies that scikit-learn carries."""

import numpy as np

from jaxflow.data.tables import Table
from jaxflow.runtime.extras import import_extra

_NEED = "the demonstration tables need scikit-learn"


def breast_cancer() -> Table:
    """Measurements of 569 cell images (Wolberg et al. 1995, UCI).

    ```python
    from jaxflow.data import breast_cancer

    table = breast_cancer()
    ```

    Returns:
        The table, (569, 30), float64.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    data = import_extra("sklearn.datasets", "demo", _NEED).load_breast_cancer()
    return Table(np.asarray(data.data, np.float64), tuple(str(n) for n in data.feature_names))


def digits(seed: int) -> Table:
    """Dequantised grey levels of 1797 images of digits, 8 x 8.

    A value is `y = x + u` with level x in 0, 1, ..., 16 and u uniform on [0, 1), so it lies in
    [0, 17). A model's mean log-density of y bounds its log-probability of the levels from below:
    `E_u[log p(x + u)] <= log P(x)` with `P(x) = integral of p(x + u) over the unit cube` (Theis et
    al. 2016, "A note on the evaluation of generative models").

    ```python
    from jaxflow.data import digits

    table = digits(seed=0)
    ```

    Args:
        seed: seed of the uniform noise u.

    Returns:
        The table, (1797, 64), float64.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    levels = import_extra("sklearn.datasets", "demo", _NEED).load_digits().data
    noise = np.random.default_rng(seed).random(levels.shape)
    # Keep a sum that rounds up to the next level below it.
    values = np.minimum(levels + noise, np.nextafter(levels + 1, levels))
    return Table(values, tuple(f"pixel_{i}_{j}" for i in range(8) for j in range(8)))
