"""The quick form of tests/bench/error_rates.py: no test and no bound claims what is not so in over 7 % of studies."""

from __future__ import annotations

import numpy as np
import pytest
from confidences import recipe

recipe("calibration")  # which it imports by name
rates = recipe("error_rates")


def test_several_methods_together_err_in_five_per_cent() -> None:
    """Law: both tests of three methods that are all retraining, corrected: 7 % at most; uncorrected, far more."""
    assert rates.families(150, seed=1) <= 0.07


def test_bounds_of_epsilon_are_on_the_safe_side() -> None:
    """Law: of models that do not differ, no image's bound for all is above 0, and hardly any of its own."""
    of_images, of_studies = rates.bounds(40, seed=1, runs=32)
    assert of_images <= 0.01
    assert of_studies == 0


def test_a_method_at_the_margin_is_rarely_called_equivalent() -> None:
    """Law: F a fifth below the null is called equivalent in 10 % of 40 studies at most, retraining in most."""
    at_margin = rates.equivalences(40, seed=1, runs=16, shift=rates.AT_THE_MARGIN[16])
    assert rates.below(at_margin) == pytest.approx(0.2, abs=0.04)
    assert np.mean([one.equivalent for one in at_margin]) <= 0.1
    alike = rates.equivalences(10, seed=2, runs=16, shift=0.0)
    assert np.mean([one.equivalent for one in alike]) > 0.6
