"""Pending runs and a pool of workers -> events: which run is made next, and what a failure or a death changes.

    for event in schedule(plan, pool, pending=in_order(plan, pending, interleave=True), made=made, max_attempts=2):
        for sink in sinks:
            sink(event)

`scheduler` decides, `events` is what it says, `pool` is what it asks of a place where runs are executed; `order`,
`batching`, `deadlines` and `resources` are one decision each. No Ray, no clock, no storage: `tests/simulator.py` drives
it with a thousand GPUs in seconds.

Does not cover: places (`cluster`, `generation.inline`), and what is done about an event (`monitor`).
"""

from ray_unlearn.schedule.events import Event as Event
from ray_unlearn.schedule.events import Sink as Sink
from ray_unlearn.schedule.events import Tally as Tally
from ray_unlearn.schedule.order import in_order as in_order
from ray_unlearn.schedule.scheduler import schedule as schedule
