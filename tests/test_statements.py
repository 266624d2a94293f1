"""A stated (epsilon, delta) is about two populations with the same options."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import TINY, merged

from ray_unlearn.errors import StudyError
from ray_unlearn.generation.job import open_job
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.methods.statements import check_statements, unheld
from ray_unlearn.study import Study, parse_study
from ray_unlearn.study.plan import MethodUse

NOISY = {"method": "noisy_finetune", "epsilon": 4.0, "epochs": 2}
REFERENCE = NOISY | {"method": "noisy_finetune_reference"}
LANGEVIN = {"method": "langevin", "learn_steps": 50}


def study_of(reference: str = "none", **populations: dict[str, Any]) -> Study:
    """Return a study of these populations."""
    evaluation = {"evaluation": {"reference": reference}} if reference != "none" else {}
    retrained = {"retrained": {"method": "retrain"}}
    return parse_study(merged(TINY, {"populations": retrained | populations, **evaluation}), where="x")


def uses_of(study: Study) -> dict[str, MethodUse]:
    return {name: resolve(study, name) for name in study.populations}


@pytest.mark.parametrize(
    "populations",
    [
        {"mine": NOISY, "ref": REFERENCE},
        {"one": NOISY | {"epsilon": 1.0}, "mine": NOISY, "ref": REFERENCE},  # of one of them
        {"ref": REFERENCE},  # the other one may be in another study
        {"mine": LANGEVIN, "ref": LANGEVIN | {"learn_on": "retain"}},
    ],
)
def test_a_reference_like_its_population(populations):
    """Law: nothing is said where a reference has the options of a population that it is the reference of."""
    check_statements(uses_of(study_of(**populations)))


@pytest.mark.parametrize(
    ("populations", "found"),
    [
        ({"mine": NOISY, "ref": REFERENCE | {"epsilon": 1.0}}, "options of mine, .*found epsilon 1.0, there 4.0; give"),
        (
            {"mine": NOISY | {"augment": {"flip": True}}, "ref": REFERENCE},
            "found augment .*'flip': False.*, there .*'flip': True",
        ),
        (
            {"far": NOISY | {"epochs": 3, "lr": 0.5}, "near": NOISY | {"epochs": 3}, "ref": REFERENCE},
            "options of near, .*found epochs 2.0, there 3.0; give both the same",
        ),
        ({"mine": LANGEVIN, "ref": LANGEVIN | {"learn_on": "retain", "std": 0.5}}, "found std 0.5, there 0.03; give"),
    ],
)
def test_other_options_are_refused(populations, found):
    """Law: one error that names the reference, the nearest population, and each option that differs."""
    with pytest.raises(StudyError, match=f"^populations.ref: expected the {found}" if "options" in found else found):
        check_statements(uses_of(study_of(**populations)))


def test_the_job_refuses_it(tmp_path, capsys):
    """Law: no work is done for such a study."""
    study = study_of(mine=NOISY, ref=REFERENCE | {"delta": 1e-3}).model_copy(update={"storage": str(tmp_path)})
    with pytest.raises(StudyError, match=r"populations\.ref: expected .*; found delta 0\.001, there 1e-05"):
        open_job(study)


def test_a_statement_that_the_evaluation_does_not_test():
    """Law: a line where evaluation.reference is another population, or has other options; else none."""
    populations = {"mine": NOISY, "one": NOISY | {"epsilon": 1.0}, "ref": REFERENCE}
    for reference, named in {"ref": ["one"], "retrained": ["mine", "one"], "none": []}.items():
        study = study_of(reference, **populations)
        lines = unheld(study, uses_of(study))
        assert [line.split(":")[0] for line in lines] == [f"population {name}" for name in named]
        assert all(f"evaluation.reference is {reference};" in line for line in lines)
    study = study_of("retrained", mine=LANGEVIN)
    assert (
        "against a population of langevin with learn_on: retain with the same options"
        in unheld(study, uses_of(study))[0]
    )
