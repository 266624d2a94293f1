"""One run, executed: trained, predicted, published, and reported as an outcome. Without Ray.

    from ray_unlearn.run.job import Job
    from ray_unlearn.run.worker import Worker

    worker = Worker(job, device="cpu")
    worker.open()
    outcomes = worker.work([(run, 1)], flush=True)

`worker` opens a job once and makes its runs, `artefacts` turns a trained model into files and a record, `publisher` is
the thread that writes them while the next run trains, `run_log` keeps what a run prints, and `outcome` is what the
scheduler gets. Importing this room, or `outcome`, does not import torch.

Does not cover: the order of runs (`schedule`), the places where workers run (`generation`, `cluster`).
"""
