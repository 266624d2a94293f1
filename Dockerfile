# ray_unlearn on Ray's image, for cluster.yaml, jobs/rayjob.yaml, or alone:
#
#     docker build -t ray_unlearn .
#     docker run --rm --shm-size=2g -v "$PWD:/home/ray/work" -w /home/ray/work ray_unlearn ray-unlearn quickstart
#
# For GPUs: --build-arg BASE=rayproject/ray:2.60.0-py311-gpu, and `docker run --gpus all`.
ARG BASE=rayproject/ray:2.60.0-py311-cpu
FROM ${BASE}

COPY --chown=ray:users . /home/ray/ray_unlearn
# The image has Ray; torch and the rest come with the package, within its bounds.
RUN pip install --no-cache-dir /home/ray/ray_unlearn && pip check && ray-unlearn --version
CMD ["ray-unlearn", "--help"]
