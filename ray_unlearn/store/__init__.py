"""The study's folder: names, atomic publication, records, pending runs, and verification.

    store = StudyStore(open_storage("./studies"), "faces")
    store.admit(plan)                            # refuses a population that was made differently
    pending = [run for run in plan.runs if not store.has(run)]

A run exists if and only if its record does. `filesystem` publishes bytes, `records` holds the record's schema, `layout`
names every file, `study_store` ties them together, `verify` reads everything back.

Does not cover: the meaning of payloads (`ray_unlearn.run` writes them, `ray_unlearn.evaluation` reads them).
"""

from ray_unlearn.store.filesystem import Storage as Storage
from ray_unlearn.store.filesystem import open_storage as open_storage
from ray_unlearn.store.records import FailedRecord as FailedRecord
from ray_unlearn.store.records import Payload as Payload
from ray_unlearn.store.records import Record as Record
from ray_unlearn.store.study_store import StudyStore as StudyStore
