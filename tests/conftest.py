"""One thread per test process: the suite runs as two processes on two cores (`make test`)."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
