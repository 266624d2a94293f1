"""A study's job for a cluster: what travels, and under which name it is submitted, attached to, and tried again.

    bundle = pack(path, study, overrides)
    submission = submission_of(bundle, ...)

`bundle` packs what the study needs, `folder_cache` keeps what was packed, `jobs` is a job in Ray's words.

Does not cover: talking to a cluster (`cluster.job_server`), what the job does: it is `generate` over there.
"""
