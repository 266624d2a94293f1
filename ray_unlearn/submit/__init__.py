"""A study's job for a cluster: its files, and the name under which it is submitted, attached to, and tried again.

    bundle = pack(path, study, overrides)
    submission = submission_of(bundle, ...)

`bundle` packs the files that the study needs, `folder_cache` keeps packed folders, `jobs` describes a job as Ray does.

Does not cover: communication with a cluster (`cluster.job_server`), the job's work, which is the commands of `cli`.
"""
