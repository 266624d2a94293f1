"""The modules of jobs/presets, which import one another as scripts in one folder do."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "jobs" / "presets"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(FOLDER)
    import objective
    import trial_records
    import trials
    import tune

__all__ = ["FOLDER", "objective", "trial_records", "trials", "tune"]
