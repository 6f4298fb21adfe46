#!/usr/bin/env python3
"""Times a training step of IR-18 with an AdaFace head of 10,000 classes here and in PyTorch, in turn.

`run` installs what this needs and starts it; README.md says what the figures mean.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from machine import processor, say

OURS = "vultus"
# PyTorch by the layout of its images: the first is what it is fastest with.
ENGINES = (OURS, "torch channels_last", "torch contiguous")


class Engine:
    """A process that trains, and sleeps in a read until it is asked to."""

    def __init__(self, name, options):
        self.name = name
        threads = str(options.threads)
        environment = dict(os.environ, RAYON_NUM_THREADS=threads, OMP_NUM_THREADS=threads)
        if name == OURS:
            command = [options.binary, "serve", options.batch]
        else:
            command = [sys.executable, Path(__file__).with_name("torch_step.py"), name.split()[1], options.batch, threads]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(list(map(str, command)), stdin=pipe, stdout=pipe, text=True, env=environment)
        self.about = self.answer()

    def steps(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def peak_mb(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
        raise SystemExit("the system does not tell a process's peak memory")

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def busy_s():
    """Seconds that all cores together were not idle."""
    ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), sum(ticks) / os.sysconf("SC_CLK_TCK")


def measure(options):
    engines = []
    for name in options.engines:
        say(f"{name}: loading, {options.warm_up} steps to warm up")
        engine = Engine(name, options)
        engines.append(engine)
        engine.steps(options.warm_up)
    counts = {engine.about["parameters"] for engine in engines}
    if len(counts) > 1:
        raise SystemExit(f"the engines do not train the same number of parameters: {sorted(counts)}")
    times = {engine.name: [] for engine in engines}
    losses = {}
    (busy, wall), own = busy_s(), sum(engine.cpu_s() for engine in engines)
    for round in range(options.rounds):
        say(f"round {round + 1} of {options.rounds}")
        first = round % len(engines)
        for engine in engines[first:] + engines[:first]:
            answer = engine.steps(options.steps)
            times[engine.name].append(statistics.median(answer["ms"]))
            losses[engine.name] = answer["loss"]
    (busy_now, wall_now), own_now = busy_s(), sum(engine.cpu_s() for engine in engines)
    others = max(0.0, busy_now - busy - (own_now - own)) / max(wall_now - wall, 1e-3) * os.cpu_count()
    rows = []
    for engine in engines:
        name = engine.name
        ratios = None
        if name != OURS and OURS in times:
            paired = [theirs / ours for theirs, ours in zip(times[name], times[OURS])]
            low, middle, high = np.quantile(paired, (0.25, 0.5, 0.75))
            ratios = {"median": middle, "quartiles": [low, high]}
        rows.append({
            "engine": name,
            "version": engine.about["version"],
            "median_ms": statistics.median(times[name]),
            "lowest_ms": min(times[name]),
            "images_per_s": options.batch * 1e3 / statistics.median(times[name]),
            "peak_mb": engine.peak_mb(),
            "vultus_is_times_as_fast": ratios,
            "last_loss": losses[name],
            "rounds_ms": times[name],
        })
        engine.close()
    return {"parameters": counts.pop(), "other_load_cores": others, "engines": rows}


def show(about, options):
    print(f"{about['processor']}, {about['cores']} cores; {options.threads} threads, batch {options.batch}, "
          f"{options.rounds} rounds of {options.steps} steps, {about['parameters'] / 1e6:.1f} M parameters"
          f" (other processes: {about['other_load_cores']:.2f} of {about['cores']} cores)")
    print(f"  {'engine':28}{'median ms':>11}{'lowest ms':>11}{'images/s':>10}{'peak MB':>9}{'vultus is':>24}")
    for row in about["engines"]:
        ratio, text = row["vultus_is_times_as_fast"], ""
        if ratio:
            low, high = ratio["quartiles"]
            text = f"{ratio['median']:.2f}x ({low:.2f} - {high:.2f})"
        print(f"  {row['engine'] + ' ' + row['version']:28}{row['median_ms']:11.0f}{row['lowest_ms']:11.0f}"
              f"{row['images_per_s']:10.1f}{row['peak_mb']:9.0f}{text:>24}")


def main():
    def number(text):
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
        return int(text)

    parser = argparse.ArgumentParser(prog="run", description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES[:2]),
                        help=f"of {', '.join(ENGINES)}; default the first two")
    parser.add_argument("--threads", type=number, default=2, help="default 2")
    parser.add_argument("--batch", type=number, default=32, help="images of a step, 2 or more; default 32")
    parser.add_argument("--rounds", type=number, default=9, help="turns of each engine, default 9")
    parser.add_argument("--steps", type=number, default=3, help="steps of a turn, whose median counts; default 3")
    parser.add_argument("--warm-up", type=number, default=3, help="steps ahead of the first round, default 3")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    unknown = [name for name in options.engines if name not in ENGINES]
    if unknown:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(ENGINES)}")
    if options.batch < 2:
        parser.error("a batch of one has no statistics")
    about = {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads, "batch": options.batch}
    about |= measure(options)
    if options.json:
        print(json.dumps(about, indent=1))
    else:
        show(about, options)


if __name__ == "__main__":
    main()
