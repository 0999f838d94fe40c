"""Checks of fields, flows and posteriors: traces, gradients, log-densities, calibration."""

from jaxflow.diagnostics.bits import BitsPerDim, bits_per_dim
from jaxflow.diagnostics.check_trace import check_trace
from jaxflow.diagnostics.diagnose import diagnose
from jaxflow.diagnostics.diagnosis import Diagnosis
from jaxflow.diagnostics.gradients import gradients
from jaxflow.diagnostics.images import ImageCheck, check_images
from jaxflow.diagnostics.posteriors.calibration import calibration
from jaxflow.diagnostics.posteriors.local import LocalTest, lc2st
from jaxflow.diagnostics.posteriors.local_calibration import local_calibration
from jaxflow.diagnostics.posteriors.observation import ObservationCheck, observation_check
from jaxflow.diagnostics.posteriors.predictive import PredictiveCheck, predictive_check, rarity
from jaxflow.diagnostics.posteriors.record import Calibration, RankTest
from jaxflow.diagnostics.posteriors.sbc import expected_coverage, sbc
from jaxflow.diagnostics.posteriors.tarp import tarp
from jaxflow.diagnostics.unusual import ColumnGains, column_gains
from jaxflow.plotting.diagnosis import draw

__all__ = [
    "BitsPerDim",
    "Calibration",
    "ColumnGains",
    "Diagnosis",
    "ImageCheck",
    "LocalTest",
    "ObservationCheck",
    "PredictiveCheck",
    "RankTest",
    "bits_per_dim",
    "calibration",
    "check_images",
    "check_trace",
    "column_gains",
    "diagnose",
    "draw",
    "expected_coverage",
    "gradients",
    "lc2st",
    "local_calibration",
    "observation_check",
    "predictive_check",
    "rarity",
    "sbc",
    "tarp",
]
