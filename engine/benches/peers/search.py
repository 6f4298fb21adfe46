#!/usr/bin/env python3
"""Searches the same face-like vectors with this program and with other engines, and prints them side by side.

`run search` installs what this needs and starts it; README.md says what the figures mean.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from machine import OtherLoad, say
from search_engines import PEERS
from search_table import OURS, Report
from search_vectors import HITS, MADE, Exact, Shape, load, write

MODES = ("exact", "cascade", "ann")
# A mode whose index took longer than this to build is run once, however many rounds there are.
LONG_BUILD_S = 60
LISTS = "results.json"


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


class Left(Exception):
    """Why an engine is left out."""


def vultus(job, options):
    """Rows of the modes, of approximate ones for each share of the ten best that they are to find."""
    modes = options.modes
    for target in options.recall_targets:
        if modes:
            yield from aiming_at(target, modes, job, options)
        modes = [mode for mode in modes if mode != "exact"]


def aiming_at(target, modes, job, options):
    """`bench search` is run for each round, and its times are believed, its lists are judged."""
    lists, lines, left = options.work / LISTS, [], list(modes)
    found = {}
    for _ in range(options.rounds):
        command = [options.binary, "bench", "search", "--dim", job["dim"], "--vectors", job["rows"], "--queries",
                   job["queries"], "--modes", ",".join(left), "--recall-target", target,
                   "--threads", ",".join(map(str, options.threads)),
                   "--concurrency", ",".join(map(str, options.concurrency)), "--json", "--results", lists]
        lists.unlink(missing_ok=True)
        ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if ended.returncode:
            words = ended.stderr.strip().splitlines() or ["no message"]
            raise Left(f"status {ended.returncode}: {words[-1]}")
        try:
            new = [json.loads(line) for line in ended.stdout.splitlines() if line.strip()]
            # Every round finds the same, or one round is as good as another.
            found |= json.loads(lists.read_text())
            slow = {line["mode"] for line in new if (line.get("build_s") or 0) > LONG_BUILD_S}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Left(f"its answer cannot be read: {error!r}") from None
        lines += new
        left = [mode for mode in left if mode not in slow]
        if not left:
            break
    lists.unlink(missing_ok=True)
    return medians(lines, found, target, modes, options)


def medians(lines, found, target, modes, options):
    """One row for each mode, number of threads and number of queries that wait."""
    for mode in modes:
        for threads in options.threads:
            for waiting in options.concurrency:
                asked = (mode, threads, waiting)
                mine = [line for line in lines if (line.get("mode"), line.get("threads"), line.get("concurrency")) == asked]
                if not mine or mode not in found:
                    raise Left(f"it says nothing of {mode} with {threads} threads and {waiting} waiting")
                if any(line.get("rows") != options.shape.rows for line in mine):
                    raise Left(f"it searched {mine[0].get('rows')} rows instead of {options.shape.rows}")
                try:
                    times = ("qps", "p50_ms", "p99_ms")
                    row = {name: statistics.median(line[name] for line in mine) for name in times}
                    row |= {"found": found[mode]["ids"], "scores": found[mode].get("scores")}
                except (KeyError, TypeError) as error:
                    raise Left(f"its answer cannot be read: {error!r}") from None
                yield {
                    "engine": f"{OURS} {mode}", "setting": "" if mode == "exact" else f"recall {target:g}",
                    "threads": threads, "concurrency": waiting, **row, "rounds": len(mine),
                    **{name: mine[-1].get(name) for name in ("bytes_per_row", "build_s", "load_s")},
                }


def peer(name, job):
    """Rows of an engine in a process of its own."""
    script = Path(__file__).with_name("search_engines.py")
    command = [sys.executable, str(script), json.dumps({"engine": name, **job})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        built = {}
        for line in process.stdout:
            answer = json.loads(line)
            if "failed" in answer:
                raise Left(answer["failed"])
            if "build_s" in answer:
                built = answer
                say(f"{name}: built in {built['build_s']:.1f} s")
            else:
                yield {"engine": name, **answer, **built}
        if process.wait():
            raise Left(f"its process ended with status {process.returncode}")


def engine(name, job, exact, report, options):
    """Measures an engine and reports its rows, all of them or none; without ours there is nothing to compare."""
    say(name)
    load = OtherLoad()
    try:
        rows = list(vultus(job, options) if name == OURS else peer(name, job))
        others = load.cores()
        for row in rows:
            found, scores = row.pop("found"), row.pop("scores", None)
            if len(found) != options.shape.probes:
                raise Left(f"it gives {len(found)} lists for {options.shape.probes} queries")
            try:
                row |= exact.judge(found, scores)
            except (TypeError, ValueError) as error:
                raise Left(f"its lists cannot be read: {error}") from None
            row["other_load_cores"] = others
    except Left as error:
        if name == OURS:
            raise SystemExit(f"run search: {options.binary}: {error}") from None
        say(f"{name} is left out: {error}")
        return
    for row in rows:
        report.add(row)


def main():
    options = arguments()
    shape = options.shape
    try:
        options.work.mkdir(parents=True, exist_ok=True)
        say(f"drawing {shape.rows} rows of {shape.dim} values")
        rows, queries = write(shape, options.work)
        say("exact search in f64")
        exact = Exact(shape, load(rows, shape.dim), load(queries, shape.dim))
        report = Report(shape, exact, options)
        job = {"rows": str(rows), "queries": str(queries), "dim": shape.dim}
        told = ("threads", "concurrency", "rounds", "build_threads", "indexes", "build_only")
        job |= {name: getattr(options, name) for name in told}
        for name in options.engines:
            engine(name, job, exact, report, options)
        report.finish()
    except OSError as error:
        raise SystemExit(f"run search: {error}") from None
    finally:
        if not options.keep:
            for name in MADE:
                (options.work / name).unlink(missing_ok=True)


def arguments():
    root = Path(__file__).resolve().parents[3]

    def number(text, low=1, high=1 << 31):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    numbers = lambda text: [number(part, 1, 1024) for part in text.split(",")]

    def shares(text):
        found = [float(part) for part in text.split(",")]
        if not all(0 <= share <= 1 for share in found):
            raise argparse.ArgumentTypeError(f"{text!r} are not numbers from 0 to 1")
        return found

    def named(known):
        def names(text):
            for name in text.split(","):
                if name not in known:
                    raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
            return text.split(",")

        return names

    everyone = (OURS, *PEERS)
    parser = Parser(prog="run search", description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=root / "target/release/vultus", help="default target/release/vultus")
    parser.add_argument("--work", type=Path, default=root / "target/peers/search", help="default target/peers/search")
    parser.add_argument("--engines", type=named(everyone), default=list(everyone), help=f"of {', '.join(everyone)}")
    parser.add_argument("--modes", type=named(MODES), default=["exact", "cascade"],
                        help="of this program: exact, cascade, ann (which builds a graph); default exact,cascade")
    parser.add_argument("--recall-targets", type=shares, default=[0.85, 0.95],
                        help="what the approximate of them are prepared to find of the ten best; default 0.85,0.95")
    parser.add_argument("--rows", type=number, default=200_000, help="default 200000")
    parser.add_argument("--dim", type=number, default=512, help="values of a vector, default 512")
    parser.add_argument("--images", type=number, default=4, help="rows of a person, default 4")
    parser.add_argument("--probes", type=number, default=1000, help="searches, default 1000")
    parser.add_argument("--threads", type=numbers, default=[1], help="that search, default 1")
    parser.add_argument("--concurrency", type=numbers, default=[1, 16], help="queries that wait at a time, default 1,16")
    parser.add_argument("--rounds", type=number, default=3, help="turns of each engine and setting, default 3")
    parser.add_argument("--build-threads", type=number, default=os.cpu_count(), help="of the others, default all cores")
    parser.add_argument("--keep", action="store_true", help="keep the vectors, which serve again for the same sizes")
    parser.add_argument("--indexes", help="keep the others' indexes in this folder, and take those that are there")
    parser.add_argument("--build-only", action="store_true", help="measure nothing of the others but what building takes")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    options = parser.parse_args()
    for name, low, high in (("rows", 10 * HITS, 1 << 31), ("dim", 2, 8192)):
        if not low <= getattr(options, name) <= high:
            parser.error(f"argument --{name}: from {low} to {high}")
    options.binary, options.work = options.binary.absolute(), options.work.absolute()
    if OURS in options.engines and not (options.binary.is_file() and os.access(options.binary, os.X_OK)):
        parser.error(f"{options.binary} cannot be run; `cargo build --release` makes it, or --engines leaves {OURS} out")
    options.shape = Shape(options.rows, options.dim, options.images, options.probes)
    return options


if __name__ == "__main__":
    main()
