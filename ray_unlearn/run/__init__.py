"""One run, executed: trained, predicted, published, and told as an outcome; no Ray in it.

    from ray_unlearn.run.worker import Job, Worker

    worker = Worker(job, device="cpu")
    worker.open()
    outcomes = worker.work([(run, 1)], flush=True)

`worker` opens a job once and makes its runs, `artefacts` turns a trained model into files and a record, `publisher` is
the thread that writes them while the next run trains, `run_log` keeps what a run prints, and `outcome` is what the
scheduler gets. Importing this room, or `outcome`, brings no torch.

Does not cover: which run comes next (`schedule`), where workers live (`generation`, `cluster`).
"""
