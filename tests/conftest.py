"""One thread in each test process and in the commands it starts: two of them share two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
