"""A stated (epsilon, delta) and the population that it is stated against: whether a study has both alike.

    check_statements(uses)                       # StudyError: a reference with other options than its population
    lines = unheld(study, uses)                  # a line for each statement that the study's evaluation does not test

`noisy_finetune` and `langevin` state an upper bound of what separates their runs from those of one other population,
which is made with the same options (`Method.reference`). Against any other population, nothing is stated.

Does not cover: the noise that a statement needs (`certificates`), and measured lower bounds (`ray_unlearn.evaluation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ray_unlearn.errors import StudyError
from ray_unlearn.methods import METHODS, Method
from ray_unlearn.study.plan import MethodUse
from ray_unlearn.study.schema import Study


def check_statements(uses: Mapping[str, MethodUse]) -> None:
    """Check that every reference has the options of a population that it is the reference of, where there are any.

    Raises:
        StudyError: options of a reference differ from those of every such population.

    """
    for method in _stating(uses):
        stating, references = _sides(uses, method)
        for reference in references:
            apart = {name: _differences(uses[name], uses[reference], method) for name in stating}
            if apart and all(apart.values()):
                nearest = min(apart, key=lambda name: len(apart[name]))
                found = ", ".join(f"{option} {ours}, there {theirs}" for option, theirs, ours in apart[nearest])
                raise StudyError(
                    f"populations.{reference}: expected the options of {nearest}, whose (epsilon, delta) is stated "
                    f"against runs with the same options; found {found}; give both the same"
                )


def unheld(study: Study, uses: Mapping[str, MethodUse]) -> list[str]:
    """Return a line for each population whose stated (epsilon, delta) is against another reference than the study's."""
    measured = study.evaluation.reference if study.evaluation else None
    if measured is None:
        return []
    lines = []
    for method in _stating(uses):
        stating, references = _sides(uses, method)
        name, differing = method.reference or ("", {})
        proper = " with ".join([name, *(f"{option}: {value}" for option, value in differing.items())])
        lines += [
            f"population {one}: its (epsilon, delta) is stated against a population of {proper} with the same options, "
            f"and evaluation.reference is {measured}; epsilon measured against that one may be larger"
            for one in stating
            if measured not in references or _differences(uses[one], uses[measured], method)
        ]
    return lines


def _stating(uses: Mapping[str, MethodUse]) -> Iterator[Method]:
    """Return the methods of a study that state an (epsilon, delta), each once."""
    for name in dict.fromkeys(use.name for use in uses.values()):
        if name in METHODS and METHODS[name].reference:
            yield METHODS[name]


def _sides(uses: Mapping[str, MethodUse], method: Method) -> tuple[list[str], list[str]]:
    """Return the populations that make a method's statement, and those that it may be against."""
    name, differing = method.reference or ("", {})
    references = [
        one
        for one, use in uses.items()
        if use.name == name and all(getattr(use.options, option) == value for option, value in differing.items())
    ]
    return [one for one, use in uses.items() if use.name == method.name and one not in references], references


def _differences(one: MethodUse, reference: MethodUse, method: Method) -> list[tuple[str, object, object]]:
    """Return the options that differ but need not, each with both values."""
    ours, theirs = one.options.model_dump(), reference.options.model_dump()
    needed = method.reference[1] if method.reference else {}
    return [(key, ours[key], theirs.get(key)) for key in ours if key not in needed and ours[key] != theirs.get(key)]
