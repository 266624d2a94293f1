"""Ray: the only room that imports it. Workers, decoding and scoring on a cluster that exists, or on one of our own.

    with open_backend("ray", workers=2) as backend:      # `generation.backends`
        pool = backend.pool(job)

`backend` connects, `local` starts a private cluster on this machine, `start` does so in a thread, `liveness` sees it
die; `pool` and `worker` are the actors, `nodes` the machines; `decoding`, `scoring` and `prometheus` are what else is
done on Ray, and `job_server` is where jobs are submitted.

Does not cover: which run is next (`schedule`), what a worker does (`ray_unlearn.run.worker`), what a job is (`submit`).
"""
