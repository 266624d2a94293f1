"""Runs still to make -> workers -> records.

    summary = generate(study, workers=2)
    summary.made, summary.failed

`driver` is the command from start to end. `job` turns a study into what workers execute, `records` is what the study's
folder holds of its runs, `preflight` are checks, `backends` are the places where runs are executed: `inline` is this
process, `forked` are processes of this machine (on its `cores`), `auto` is a choice, `moving` what goes from one to the
other; `summary` is the result with its closing lines.

Does not cover: executing a run (`ray_unlearn.run.worker`), the order of runs (`schedule`), progress and logs
(`monitor`).
"""

from ray_unlearn.generation.driver import generate as generate
from ray_unlearn.generation.job import open_job as open_job
from ray_unlearn.generation.summary import Summary as Summary
