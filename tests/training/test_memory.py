"""Large blocks stay with the process: using one again costs few page faults."""

import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from minillm.training.memory import keep_freed_memory
{call}
torch.set_num_threads(1)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # the heap finds its shape
    torch.ones(20_000_000)
before = faults()
for _ in range(5):
    torch.ones(20_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_large_block_is_used_again_without_page_faults():
    kept, fresh = (
        int(subprocess.run([sys.executable, "-c", COUNT.format(call=call)], capture_output=True, check=True).stdout)
        for call in ("assert keep_freed_memory()", "")
    )
    assert 3 * kept < fresh
