"""Runs still to make -> workers -> records.

    summary = generate(study, backend="ray", workers=2)
    summary.made, summary.failed

`opening` turns a study into a job, `order` says which run comes first, `loop` is the scheduler (no Ray in it), `inline`
and `ray_pool` are the places where runs execute, `room` says how many a node holds, `ray_data` decodes large sources,
`progress` tells people, and `recorder` tells the log of events and `ray_metrics`.

Does not cover: what a run does (`ray_unlearn.worker`).
"""

from ray_unlearn.driver.generation import generate as generate
from ray_unlearn.driver.opening import open_job as open_job
from ray_unlearn.driver.summary import Summary as Summary
