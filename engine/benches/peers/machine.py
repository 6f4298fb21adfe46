"""What is said about the machine, and to who waits."""

import os
import platform
import sys
import time
from pathlib import Path


def say(text):
    print(f"... {text}", file=sys.stderr, flush=True)


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


class OtherLoad:
    """How many cores are busy with something else than this process and its children that have ended."""

    def __init__(self):
        self.before = self.clock()

    def cores(self):
        elapsed, busy, own = (now - then for now, then in zip(self.clock(), self.before))
        return max(0.0, busy - own) / max(elapsed, 1e-3)

    @staticmethod
    def clock():
        """Seconds by the clock, those that all cores were not idle, and those of this process and its children."""
        ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, sum(os.times()[:4])
