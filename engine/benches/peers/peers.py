#!/usr/bin/env python3
"""Runs the same networks on this engine and on others, one forward pass in turn, and prints them side by side.

`run` installs what this needs and starts it; README.md says what the figures mean.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import networks
from graph import Graph
from machine import processor, say
from reference import Exact

OURS = "vultus"
# Engine and arithmetic. An arithmetic of ours is what `forward_times run --dtype` takes.
ENGINES = ("vultus f32", "vultus bf16", "openvino f32", "openvino bf16", "onnxruntime f32", "opencv f32", "vultus-stock f32")
# Passes in one turn of an engine that is quick: as many as take this long.
TURN_MS, TURN_PASSES = 60, 50
# Images on which outputs are compared.
CHECKED = {"yunet": 1}
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


class Engine:
    """A process that runs one network on so many threads."""

    def __init__(self, name, network, files, threads, options):
        self.name, self.network = name, network
        engine, dtype = name.split()
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
        if options.isa:
            environment |= RESTRICTED[options.isa]
        if engine.startswith(OURS):
            command = [options.binary, "run", network, files.weights, "--dtype", dtype]
            command += ["--arithmetic", "stock" if engine.endswith("stock") else "kernels"]
        else:
            worker = Path(__file__).with_name("worker.py")
            command = [sys.executable, worker, engine, network, files.graph, dtype, str(threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(list(map(str, command)), stdin=pipe, stdout=pipe, text=True, env=environment)
        self.about = self.answer()
        self.ask(f"input {files.input}")

    def ask(self, request):
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} on {self.network} ended with status {self.process.wait()}")
        return json.loads(line)

    def output(self, count, folder):
        path = folder / "output.safetensors"
        self.ask(f"output {count} {path}")
        return load_file(path)["output"].astype(np.float64)

    def resident_mb(self):
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_MB

    def cpu_ticks(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# What keeps every engine that can be restricted from using wider instructions.
RESTRICTED = {"avx2": {"VULTUS_KERNELS": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENCV_CPU_DISABLE": "AVX512-SKX"}}


def chosen(network, options):
    """The engines to compare on a network."""
    # Of the networks, those of the IR family alone run in bf16 here.
    bf16 = network.startswith("ir_")
    if options.engines:
        return [name for name in options.engines if bf16 or name != f"{OURS} bf16"]
    left_out = {"vultus-stock f32"}
    if network != "yunet":
        left_out.add("opencv f32")
    if not bf16:
        left_out.add(f"{OURS} bf16")
    if options.isa:
        left_out |= {"openvino bf16", "vultus bf16", "onnxruntime f32"}
    return [name for name in ENGINES if name not in left_out]


class Files:
    """Weights, graph and input of a network, in the working folder."""

    def __init__(self, network, options):
        self.tensors = networks.weights(network, options.binary, options.assets)
        count = max(*options.batches[network], CHECKED.get(network, 8))
        self.images = networks.images(network, count)
        self.weights, self.graph, self.input = (
            options.work / f"{network}{ending}" for ending in (".safetensors", ".onnx", ".input.safetensors")
        )
        save_file(self.tensors, self.weights)
        save_file({"input": self.images}, self.input)
        graph = Graph(self.tensors)
        outputs = networks.build(network, graph, "input")
        # OpenCV wants a batch size, and detectors see one photo at a time.
        graph.save(self.graph, [1 if network == "yunet" else "batch", *self.images.shape[1:]], outputs)


def errors(engines, network, files, options):
    """How far outputs are from double precision and from OpenVINO's in f32."""
    say(f"{network}: double precision")
    count = CHECKED.get(network, 8)
    exact = Exact(files.tensors)
    images = files.images[:count].astype(np.float64)
    outputs = {"f64": networks.values(network, networks.build(network, exact, images))}
    outputs |= {engine.name: engine.output(count, options.work) for engine in engines}
    against = [name for name in ("f64", "openvino f32") if name in outputs]
    measure = heads_apart if network == "yunet" else features_apart
    rows = []
    for engine in engines:
        apart = {name: measure(outputs[engine.name], outputs[name]) for name in against if name != engine.name}
        rows.append({"engine": engine.name, "against": apart})
    return rows


def features_apart(ours, theirs):
    norms, others = (np.linalg.norm(features, axis=1) for features in (ours, theirs))
    units, expected = ours / norms[:, None], theirs / others[:, None]
    # Of unit vectors; 1 - cosine as half the squared distance loses no digits.
    cosine = 1 - ((units - expected) ** 2).sum(1).max() / 2
    return {
        "unit_embedding": float(np.abs(units - expected).max()),
        "norm": float((np.abs(norms - others) / others).max()),
        "cosine": float(cosine),
    }


def heads_apart(ours, theirs):
    return {"heads": float(np.abs(ours - theirs).max()), "largest_value": float(np.abs(theirs).max())}


def measure(engines, batch, options):
    """Rounds in which each engine has a turn; the first of a round changes. The milliseconds of a pass by engine."""
    repeats = {}
    for engine in engines:
        ms = min(engine.ask(f"batch {batch} repeat 3"))
        repeats[engine.name] = max(1, min(TURN_PASSES, math.ceil(TURN_MS / ms)))
    times = {engine.name: [] for engine in engines}
    before = clock(engines)
    for round in range(options.rounds):
        first = round % len(engines)
        for engine in engines[first:] + engines[:first]:
            passes = engine.ask(f"batch {batch} repeat {repeats[engine.name]}")
            times[engine.name].append(statistics.median(passes))
    after = clock(engines)
    elapsed, busy, own = (now - then for now, then in zip(after, before))
    return times, max(0.0, busy - own) / elapsed * os.cpu_count()


def clock(engines):
    """Ticks of all cores in all, those that were not idle, and those of the engines and this process."""
    ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    here = os.times()
    own = (here.user + here.system) * os.sysconf("SC_CLK_TCK")
    return sum(ticks), sum(ticks) - ticks[3] - ticks[4], own + sum(engine.cpu_ticks() for engine in engines)


def summary(engines, batch, times):
    ours = [engine.name for engine in engines if engine.name.split()[0] == OURS]
    rows = []
    for engine in engines:
        name = engine.name
        median = statistics.median(times[name])
        ratios = {}
        for own in ours:
            paired = [theirs / mine for theirs, mine in zip(times[name], times[own])]
            low, middle, high = np.quantile(paired, (0.25, 0.5, 0.75))
            ratios[own] = {"median": middle, "quartiles": [low, high]}
        rows.append({
            "engine": name,
            "median_ms": median,
            "lowest_ms": min(times[name]),
            "images_per_s": batch * 1e3 / median,
            "resident_mb": engine.resident_mb(),
            "times_as_fast": ratios,
            "rounds_ms": times[name],
        })
    return rows


def compare(network, options):
    files = Files(network, options)
    result = {"network": network, "errors": [], "times": []}
    for threads in options.threads:
        say(f"{network}, {threads} thread{'s' * (threads > 1)}: loading")
        engines = [Engine(name, network, files, threads, options) for name in chosen(network, options)]
        result["engines"] = {engine.name: engine.about for engine in engines}
        if options.errors and not result["errors"]:
            result["errors"] = errors(engines, network, files, options)
            print_errors(result, options)
        for batch in options.batches[network]:
            say(f"{network}, {threads} thread{'s' * (threads > 1)}, batch {batch}: {options.rounds} rounds")
            times, others = measure(engines, batch, options)
            rows = summary(engines, batch, times)
            entry = {"threads": threads, "batch": batch, "other_load_cores": others, "engines": rows}
            result["times"].append(entry)
            print_times(network, entry, options)
        for engine in engines:
            engine.close()
    return result


def print_errors(result, options):
    if options.json:
        return
    print(f"\n{result['network']}, largest difference of raw outputs")
    for row in result["errors"]:
        for name, apart in row["against"].items():
            values = ", ".join(
                f"{key.replace('_', ' ')} {value:.6f}" if key in ("cosine", "largest_value") else
                f"{key.replace('_', ' ')} {value:.1e}" for key, value in apart.items()
            )
            print(f"  {row['engine']:17} from {name:13} {values}")
    sys.stdout.flush()


def print_times(network, entry, options):
    if options.json:
        return
    ours = list(entry["engines"][0]["times_as_fast"])
    threads, batch = entry["threads"], entry["batch"]
    print(f"\n{network}, {threads} thread{'s' * (threads > 1)}, batch {batch}"
          f" (other processes: {entry['other_load_cores']:.2f} of {os.cpu_count()} cores)")
    print(f"  {'engine':17}{'median ms':>11}{'lowest ms':>11}{'images/s':>10}{'RSS MB':>8}"
          + "".join(f"{name + ' is':>26}" for name in ours))
    for row in entry["engines"]:
        line = (f"  {row['engine']:17}{row['median_ms']:11.2f}{row['lowest_ms']:11.2f}{row['images_per_s']:10.1f}"
                f"{row['resident_mb']:8.0f}")
        for name in ours:
            ratio = row["times_as_fast"][name]
            low, high = ratio["quartiles"]
            text = "" if name == row["engine"] else f"{ratio['median']:.2f}x ({low:.2f} - {high:.2f})"
            line += f"{text:>26}"
        print(line)
    sys.stdout.flush()


def main():
    def number(text):
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
        return int(text)

    numbers = lambda text: [number(part) for part in text.split(",")]
    names = lambda text: text.split(",")
    parser = argparse.ArgumentParser(prog="run", description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--assets", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--networks", type=names, default=["ir_50", "mobilefacenet", "yunet"],
                        help=f"of {', '.join(networks.NETWORKS)}; default ir_50,mobilefacenet,yunet")
    parser.add_argument("--engines", type=names, help=f"of {', '.join(ENGINES)}; default all that suit the network")
    parser.add_argument("--threads", type=numbers, default=[1, 2], help="default 1,2")
    parser.add_argument("--batches", type=numbers, default=[1, 8, 32], help="default 1,8,32; yunet always 1")
    parser.add_argument("--rounds", type=number, default=15, help="turns of each engine, default 15")
    parser.add_argument("--isa", choices=list(RESTRICTED), help="restrict the engines that can be")
    parser.add_argument("--no-errors", dest="errors", action="store_false", help="do not compare outputs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    for known, given in ((networks.NETWORKS, options.networks), (ENGINES, options.engines or [])):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"{unknown[0]!r} is not one of {', '.join(known)}")
    if not all(chosen(network, options) for network in options.networks):
        parser.error(f"{OURS} runs networks of the IR family alone in bf16")
    options.batches = {network: [1] if network == "yunet" else options.batches for network in options.networks}

    about = {"processor": processor(), "cores": os.cpu_count(), "isa": options.isa, "rounds": options.rounds}
    if not options.json:
        print(f"{about['processor']}, {about['cores']} cores, {options.isa or 'widest'} instructions")
    about["networks"] = [compare(network, options) for network in options.networks]
    if options.json:
        print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
