"""The registry of measures: one file each, all of them listed, everything about a number in one place."""

from __future__ import annotations

import importlib
from pathlib import Path

import ray_unlearn.evaluation.measures as room
from ray_unlearn.evaluation.measures import CURVES, MEASURES, SINGLE_CURVES
from ray_unlearn.report.score_tables import RANKED, glossary, table_of

FILES = {path.stem for path in Path(room.__file__).parent.glob("*.py")} - {"__init__", "measure", "by_shadows"}


def test_every_file_is_listed():
    """Law: a file that no one lists is a measure that no one computes."""
    defined = {name for file in FILES for name in importlib.import_module(f"{room.__name__}.{file}").MEASURES}
    assert defined == MEASURES.keys()


def test_a_measure_is_computed_in_one_way():
    """Law: of two populations or of each run, never both and never neither."""
    for name, one in MEASURES.items():
        assert (one.compute is None) != (one.per_run is None), name
        assert set(one.needs) <= {"forget", "retain", "validation", "test"}, name


def test_every_measure_is_shown():
    """Law: the page shows every measure, in the ranking or in one of its tables."""
    assert [name for name in MEASURES if not table_of(name)] == list(RANKED)


def test_a_curve_has_its_measure():
    """Law: whether an attack's curve is possible is what its own measure needs."""
    assert {f"{attack}_auc" for attack in CURVES} | set(SINGLE_CURVES) <= MEASURES.keys()


AS_IN_SOURCE = {"retain_ratio", "test_ratio"}
"""Measures that are what their source says."""
OWN = "this project"


def test_deviations_on_purpose_are_named_where_readers_look():
    """Law: a measure is as in its source, or its docstring and the page's glossary say what differs."""
    words = glossary()
    for name, one in MEASURES.items():
        assert bool(one.deviation) == (one.source != OWN and name not in AS_IN_SOURCE), name
        assert (f"On purpose different: {one.deviation}." in words[one.label]) == bool(one.deviation), name
    for file in FILES:
        module = importlib.import_module(f"{room.__name__}.{file}")
        if any(one.deviation for one in module.MEASURES.values()):
            text = " ".join((module.__doc__ or "").split()).lower()
            assert "on purpose" in text or "the program's two-sided" in text, file
