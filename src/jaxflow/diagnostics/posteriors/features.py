"""A classifier that is linear in random Fourier features, fitted by least squares."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxflow.diagnostics.findings import column_scale

# Number of features, their widths relative to the root of the number of columns, and the ridge
# relative to the mean square of a feature.
NUM, WIDTHS, RIDGE = 600, (0.5, 1.0, 2.0), 1e-3
# Directions in which rows spread less than this, relative to the widest, are left out.
FLAT = 1e-6

# Truths, then draws; one labelling in each column; where to evaluate; the values there.
Pairs = Float[np.ndarray, "both p"]
Signs = Float[np.ndarray, "n h"]
Points = Float[np.ndarray, "k p"]
Values = Float[np.ndarray, "k h"]


class RandomFeatures(NamedTuple):
    """`sqrt(2) cos(x W + b)`, whose products approximate a sum of Gaussian kernels.

    Rahimi and Recht (2007), "Random Features for Large-Scale Kernel Machines", NeurIPS.
    """

    frequencies: Float[np.ndarray, "p features"]
    phases: Float[np.ndarray, " features"]

    @classmethod
    def draw(cls, columns: int, rng: np.random.Generator) -> "RandomFeatures":
        """Features of whitened rows, of all `WIDTHS`."""
        widths = np.sqrt(columns) * rng.choice(WIDTHS, NUM)
        return cls(rng.normal(size=(columns, NUM)) / widths, rng.uniform(0, 2 * np.pi, NUM))

    def __call__(self, x: Points) -> Float[np.ndarray, "k features"]:
        """The features of rows."""
        return np.sqrt(2) * np.cos(x @ self.frequencies + self.phases)

    def classify(self, rows: Pairs, signs: Signs, points: Points) -> Values:
        """Probability of the label 1, minus 1/2, at points, for many labellings at once, (k, h).

        `rows` are n of one kind, then n of the other; row i and row n + i are a pair. In a column
        of `signs`, (n, h), +1 gives the second of pair i the label 1, and -1 the first.
        """
        x, n = self(rows), len(signs)
        gram = x.T @ x / len(x) + RIDGE * np.eye(NUM)
        slopes = (x[n:] - x[:n]).T @ signs / (4 * n)
        return self(points) @ np.linalg.solve(gram, slopes)


def whiten(
    rows: Pairs, points: Points
) -> tuple[Float[np.ndarray, "both q"], Float[np.ndarray, "k q"]]:
    """Rows and points in coordinates in which `rows` have mean 0 and covariance I."""
    centre, scale = rows.mean(axis=0), column_scale(rows)
    standard = (rows - centre) / scale
    values, axes = np.linalg.eigh(standard.T @ standard / len(rows))
    kept = values > FLAT**2 * values[-1]
    to_white = axes[:, kept] / np.sqrt(values[kept])
    return standard @ to_white, (points - centre) / scale @ to_white
