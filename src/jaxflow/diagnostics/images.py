"""`check_images`: bits per dimension of a flow of images, and whether it copies them."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from jaxflow.diagnostics.bits import BitsPerDim, bits_per_dim
from jaxflow.diagnostics.findings import Finding, judge, p_value
from jaxflow.diagnostics.verdict import problems_of, verdict_lines
from jaxflow.runtime.shapes import ArrayInput

# Largest error of the bits per dimension from solves or probes, and level of the test of copies.
MOST_ERROR, LEVEL = 0.01, 1e-3


class ImageCheck(NamedTuple):
    """Result of `check_images`; `print` it for a verdict.

    Attributes:
        bits: bits per dimension of the images.
        independent: those of a model of independent pixels, each with its own frequencies of
            levels in the training images.
        samples: samples, as many as images and with their conditions, (n, *event).
        nearest: number of the training image nearest to each sample, (n,).
        of_samples: distance of each sample to it, root mean square levels, (n,).
        of_images: distance of each image to its nearest training image, (n,).
        copying: p-value of the hypothesis that samples are no closer to the training images than
            other images are (Mann-Whitney, one-sided).
    """

    bits: BitsPerDim
    independent: float
    samples: Float[np.ndarray, "n *event"]
    nearest: Int[np.ndarray, " n"]
    of_samples: Float[np.ndarray, " n"]
    of_images: Float[np.ndarray, " n"]
    copying: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The sentences of the verdict."""
        bits, gain = self.bits, self.independent - self.bits.bits
        beyond = 2 * bits.standard_error
        findings = [
            judge(
                gain > beyond,
                f"{gain:+.4f} bits/dim better than independent pixels ({self.independent:.4f})",
                bad="the flow has learned no more than frequencies of levels; train it for longer",
            ),
            judge(
                bits.probe_se <= MOST_ERROR,
                f"standard error from probes {bits.probe_se:.4f} bits/dim, at most {MOST_ERROR}",
                bad="give more probes, replace(flow, trace=Hutchinson(8))",
            ),
        ]
        if bits.solver_error is None:
            findings.append(Finding("the solver states no error: fixed steps", "unknown"))
        else:
            text = f"mean error of the solves {bits.solver_error:.1e} bits/dim, at most "
            bad = "tighten the tolerances, replace(flow, ode_eval=ODE(rtol=1e-3, atol=1e-3))"
            findings.append(judge(bits.solver_error <= MOST_ERROR, f"{text}{MOST_ERROR}", bad=bad))
        distances = (
            f"nearest training image: of a sample {np.median(self.of_samples):.3g} levels away in "
            f"the median, of an image {np.median(self.of_images):.3g} (closer by chance: "
            f"{p_value(self.copying)})"
        )
        return (*findings, judge(self.copying > LEVEL, distances, bad="samples may be copies"))

    @property
    def problems(self) -> tuple[str, ...]:
        """The text of every finding against the flow."""
        return problems_of(self.findings)

    def __str__(self) -> str:
        return "\n".join([str(self.bits), "", *verdict_lines(self.findings)])


def check_images(
    flow: Any,
    images: ArrayInput,
    training: ArrayInput,
    cond: ArrayInput | None = None,
    *,
    key: PRNGKeyArray,
    levels: int = 256,
    num_draws: int = 2,
) -> ImageCheck:
    """Measure bits per dimension on images, and compare samples with the training images.

    Samples of a flow that has memorised its training images are closer to them than other images
    of the same kind. The test is that of Meehan et al. 2020, "A non-parametric test to detect
    data-copying in generative models", arXiv 2004.05675, in one cell. It compares levels, so it
    finds copies of pixels, not of meaning.

    ```python
    import jax
    import numpy as np
    import jaxflow
    from jaxflow.diagnostics import check_images

    key = jax.random.key(0)
    images = np.random.default_rng(0).integers(0, 4, (60, 4, 4, 1))
    flow, _ = jaxflow.fit_images(images[:40], key=key, width=4, steps=2)
    print(check_images(flow, images[40:], images[:40], key=key, levels=4))
    ```

    Args:
        flow: a flow of levels, as `jaxflow.fit_images` returns it.
        images: levels that the flow was not trained on, (n, height, width, channels).
        training: images that it was trained on, (m, height, width, channels).
        cond: conditions of `images`, (n, *condition), or None.
        key: for noise, probes and samples.
        levels: number of levels.
        num_draws: draws of noise for each image.

    Returns:
        An `ImageCheck`; `print` shows it with a verdict.

    Raises:
        ValueError: as `bits_per_dim`.
        SolveError: a solve failed.
    """
    x, known = (np.asarray(each, np.float32) for each in (images, training))
    depth = (levels - 1).bit_length()
    bits = bits_per_dim(flow, x, cond, key=key, bits=depth, num_draws=num_draws)
    samples = np.asarray(flow.sample(key, len(x), cond))
    of_samples, of_images = (_distances(each, known) for each in (samples, x))
    nearest = of_samples.argmin(axis=1)
    of_samples, of_images = of_samples.min(axis=1), of_images.min(axis=1)
    copying = float(mannwhitneyu(of_samples, of_images, alternative="less").pvalue)
    independent = _bits_of_independent_pixels(x, known, levels)
    return ImageCheck(bits, independent, samples, nearest, of_samples, of_images, copying)


def _distances(x: np.ndarray, known: np.ndarray) -> Float[np.ndarray, "n m"]:
    """Root mean squares of the differences of levels."""
    size = x[0].size
    return cdist(x.reshape(-1, size), known.reshape(-1, size)) / size**0.5


def _bits_of_independent_pixels(x: np.ndarray, known: np.ndarray, levels: int) -> float:
    """Bits per dimension under frequencies of levels of each pixel, plus one for each level."""
    flat, seen = (np.round(each).astype(int).reshape(len(each), -1) for each in (x, known))
    pixels = np.arange(flat.shape[1])
    counts = np.ones((flat.shape[1], levels))
    np.add.at(counts, (np.broadcast_to(pixels, seen.shape), seen), 1)
    return float(-np.log2(counts / counts.sum(axis=1, keepdims=True))[pixels, flat].mean())
