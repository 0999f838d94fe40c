"""The longest notebooks are among the longer tests."""

from typing import Any

import pytest

SLOW = {
    "01_diffusion_ddpm.ipynb",
    "02_score_models_and_langevin.ipynb",
    "03_common_framework_and_guidance.ipynb",
    "05_continuity_equation_and_ffjord.ipynb",
    "06_adjoint_method.ipynb",
    "07_exact_against_stochastic_trace.ipynb",
    "08_flow_matching_to_likelihood.ipynb",
    "09_guidance_trained.ipynb",
    "10_ffjord_end_to_end.ipynb",
    "11_continuity_on_a_sphere.ipynb",
    "12_images_of_digits.ipynb",
    "13_posterior_of_two_moons.ipynb",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
