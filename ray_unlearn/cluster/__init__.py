"""The only room that imports Ray: workers, decoding and scoring on an existing cluster, or on a local one.

    with open_backend("ray", workers=2) as backend:      # `generation.backends`
        pool = backend.pool(job)

`backend` connects, `local` starts a private cluster on this machine, `start` does so in a thread, `liveness` notices
that Ray has died; `pool` and `worker` are the actors, `nodes` the machines; `decoding`, `scoring` and `prometheus` also
use Ray, and `job_server` submits jobs.

Does not cover: the order of runs (`schedule`), the work of a worker (`ray_unlearn.run.worker`), a job's content
(`submit`).
"""
