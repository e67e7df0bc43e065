"""Settings of every test process, made before torch is imported."""

import os

# Tests run side by side, one process a core; OpenMP threads that spin for work would only take turns.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test may wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
