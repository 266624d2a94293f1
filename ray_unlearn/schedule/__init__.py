"""Pending runs and a pool of workers -> events: which run is made next, and what a failure or a death changes.

    for event in schedule(plan, pool, pending=in_order(plan, pending, interleave=True), made=made, max_attempts=2):
        for sink in sinks:
            sink(event)

`scheduler` decides, `events` holds the values that it yields, and `pool` is the protocol of a place where runs are
executed; `order`, `batching`, `deadlines` and `resources` each take one decision. The room has no Ray, no clock and no
storage: `tests/simulator.py` drives it with a thousand GPUs in seconds.

Does not cover: the places (`cluster`, `generation.inline`), and the sinks that handle events (`monitor`).
"""

from ray_unlearn.schedule.events import Event as Event
from ray_unlearn.schedule.events import Sink as Sink
from ray_unlearn.schedule.events import Tally as Tally
from ray_unlearn.schedule.order import in_order as in_order
from ray_unlearn.schedule.scheduler import schedule as schedule
