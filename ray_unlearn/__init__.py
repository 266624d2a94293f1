"""ray_unlearn: populations of seeded unlearned and retrained checkpoints, from one study file.

    import ray_unlearn as ru

    study = ru.load_study("study.yaml", overrides=["populations.finetune.count=8"])
    summary = ru.generate(study, backend="inline")       # in this process, without Ray
    print(summary.made, summary.failed)
    found = ru.evaluate(study)                           # found.runs, found.scores, found.images: DataFrames
    print(ru.report(study, "markdown", columns=["population", "N", "score"]))

The command line (`ray-unlearn --help`) is the same calls, one subcommand per stage. A name is imported when it is first
used, so that `import ray_unlearn` costs neither torch nor Ray.

Does not cover: the rooms themselves; each has its own documentation.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_unlearn.deletion import forget as forget
    from ray_unlearn.generation import generate as generate
    from ray_unlearn.notebook import evaluate as evaluate
    from ray_unlearn.notebook import parse_study as parse_study
    from ray_unlearn.notebook import report as report
    from ray_unlearn.notebook import results as results
    from ray_unlearn.study import Study as Study
    from ray_unlearn.study import load_study as load_study

__version__ = "0.2.0"

_ROOMS = {
    "Study": "study",
    "evaluate": "notebook",
    "forget": "deletion",
    "generate": "generation",
    "load_study": "study",
    "parse_study": "notebook",
    "results": "notebook",
    "_report": "notebook",  # the function that the room `report` is
}
"""Name -> the room that has it."""


def __getattr__(name: str) -> Any:
    """Return one of the package's functions; `report` is a room that can be called."""
    if name == "report":
        return import_module("ray_unlearn.report")
    if name not in _ROOMS:
        raise AttributeError(f"module 'ray_unlearn' has no attribute {name!r}")
    return getattr(import_module(f"ray_unlearn.{_ROOMS[name]}"), name.removeprefix("_"))


def __dir__() -> list[str]:
    """Return what can be asked for, for a notebook's completion."""
    return sorted({*globals(), *_ROOMS, "report"} - {"_report"})
