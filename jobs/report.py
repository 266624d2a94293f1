"""Make one page of a study's last evaluation, as a Ray job. The same as `ray-unlearn report`, with the same arguments.

    ray job submit --address http://127.0.0.1:8265 --working-dir jobs \
        -- python report.py studies/faces.yaml --set storage=s3://bucket/studies

Needs: ray_unlearn on the head node, a study that is evaluated; no GPU, no worker, some seconds. Writes report.html
into the study's folder in the storage and says where. `ray-unlearn submit STUDY --stage report` submits the same.
"""

import sys

from ray_unlearn.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
