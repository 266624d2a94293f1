"""Views of a `generate` for people: while it works, from another machine, and afterwards.

    phases = Phases()                            # seconds by phase
    recorder = Recorder(log)                     # events as lines of the log
    with show_progress(total, already, execution, TimeLeft(pending)) as console:
        for sink in (phases, recorder, console):
            sink(event)

These are sinks of the schedule's events. `watch` and `utilisation` read the log that `event_log` wrote, in any process.

Does not cover: the events (`schedule`), the log's files (`store.events`), Prometheus (`cluster`).
"""

from ray_unlearn.monitor.console import announce as announce
from ray_unlearn.monitor.event_log import Recorder as Recorder
from ray_unlearn.monitor.phases import Phases as Phases
from ray_unlearn.monitor.progress import show_progress as show_progress
from ray_unlearn.monitor.time_left import TimeLeft as TimeLeft
from ray_unlearn.monitor.tracking import tracked as tracked
