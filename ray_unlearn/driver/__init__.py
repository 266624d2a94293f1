"""Runs still to make -> workers -> records.

    summary = generate(study, backend="ray", workers=2)
    summary.made, summary.failed

`opening` turns a study into a job, `loop` is the scheduler (no Ray in it), `inline` and `ray_backend` are the places
where runs execute, `ray_data` decodes large sources, `progress` tells people.

Does not cover: what a run does (`ray_unlearn.worker`).
"""

from ray_unlearn.driver.generation import Summary as Summary
from ray_unlearn.driver.generation import generate as generate
from ray_unlearn.driver.opening import open_job as open_job
