import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import torch
from lrkd.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.ones(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(12_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_large_blocks_are_used_again():
    def faults(how):
        done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    # 48 MB are 11,719 pages of 4 kB (or 23 of 2 MB, where the kernel backs the block with huge pages).
    assert faults("keep") * 3 < faults("return")
