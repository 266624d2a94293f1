"""Runs still to make -> workers -> records.

    summary = generate(study, backend="ray", workers=2)
    summary.made, summary.failed

`driver` is the command from start to end. `job` turns a study into what workers execute, `records` is what the study's
folder says of its runs, `preflight` are checks, `backends` are the places where runs are executed, `inline` is this
process, `summary` is what is said in the end.

Does not cover: what a run does (`ray_unlearn.run.worker`), which one is next (`schedule`), who is told (`monitor`).
"""

from ray_unlearn.generation.driver import generate as generate
from ray_unlearn.generation.job import open_job as open_job
from ray_unlearn.generation.summary import Summary as Summary
