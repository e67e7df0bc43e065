"""Whether other work on the machine would spoil a measurement."""

import math
import os


def is_idle() -> bool:
    """Whether fewer processes than half of the cores ran in the last minute; False where that is unknown."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.inf
    return load < (os.cpu_count() or 1) / 2
