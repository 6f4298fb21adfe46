"""Prints measurements of searches, and who is fastest of those that find the right person."""

import json
import os
from importlib import metadata

from machine import processor
from search_vectors import TIE

OURS = "vultus"
PACKAGES = ("faiss-cpu", "hnswlib", "usearch")
# An engine counts when its rank-1 is at least this share of the exact search's.
ENOUGH = 0.999


def versions():
    """Of those that are installed."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return installed


def called(row):
    """Engine and setting."""
    return f"{row['engine']} {row['setting']}".rstrip()


class Report:
    """A line for each engine and setting as soon as it is known, and the summary."""

    def __init__(self, shape, exact, options):
        self.exact, self.json, self.rows = exact, options.json, []
        about = {
            "kind": "about", "processor": processor(), "cores": os.cpu_count(), "versions": versions(),
            "rows": shape.rows, "dim": shape.dim, "images": shape.images, "people": shape.people, "probes": shape.probes,
            "rounds": options.rounds, "build_threads": options.build_threads, "exact_rank1": exact.rank_1, "tie": TIE,
            "scored_again_in_f64": exact.checked_again, "order": "engines one after another",
        }
        if self.json:
            return self.line(about)
        named = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        print(f"{about['processor']}, {about['cores']} cores; {named}\n{shape.rows} rows of {shape.people} people, "
              f"{shape.dim} values each, {shape.probes} searches for people enrolled; exact rank-1 {exact.rank_1:.4f}\n"
              f"Engines ran one after another; medians of rounds: {options.rounds}; threads that built the others: "
              f"{options.build_threads}\n\n{'engine':17}{'setting':>12}{'threads':>9}{'waiting':>9}{'QPS':>10}{'p50 ms':>10}"
              f"{'p99 ms':>10}{'rank-1':>9}{'recall@10':>11}{'bytes/row':>11}{'build s':>9}{'others':>8}", flush=True)

    def line(self, values):
        print(json.dumps(values), flush=True)

    def add(self, row):
        self.rows.append(row)
        if self.json:
            return self.line({"kind": "row", **row})
        number = lambda name, form: "-" if row.get(name) is None else format(row[name], form)
        print(f"{row['engine']:17}{row['setting']:>12}{row['threads']:9}{row['concurrency']:9}{row['qps']:10.1f}"
              f"{row['p50_ms']:10.3f}{row['p99_ms']:10.3f}{row['rank1']:9.4f}{row['recall_at_10']:11.4f}"
              f"{number('bytes_per_row', '.0f'):>11}{number('build_s', '.1f'):>9}{number('other_load_cores', '.2f'):>8}",
              flush=True)

    def right(self, row):
        return row["rank1"] >= ENOUGH * self.exact.rank_1

    def finish(self):
        """For each number of threads and of queries that wait: the fastest peer that counts, and ours against it."""
        if not self.json:
            print(f"\nFastest peer whose rank-1 is at least {ENOUGH} of the exact search's:")
        for threads, waiting in sorted({(row["threads"], row["concurrency"]) for row in self.rows}):
            alike = [row for row in self.rows if (row["threads"], row["concurrency"]) == (threads, waiting)]
            peers = [row for row in alike if not row["engine"].startswith(OURS) and self.right(row)]
            best = max(peers, key=lambda row: row["qps"], default=None)
            ours = [row for row in alike if row["engine"].startswith(OURS)]
            self.compare(threads, waiting, best, ours)
        errors = {row["engine"]: row["score_error"] for row in self.rows if "score_error" in row}
        if errors and not self.json:
            print("\nLargest difference of a score from f64: "
                  + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))

    def compare(self, threads, waiting, best, ours):
        ratios = {called(row): row["qps"] / best["qps"] if best else None for row in ours}
        if self.json:
            named = best and {name: best[name] for name in ("engine", "setting", "qps", "rank1")}
            return self.line({
                "kind": "summary", "threads": threads, "concurrency": waiting, "enough": ENOUGH, "best_peer": named,
                "times_as_fast": ratios, "counts": {called(row): self.right(row) for row in ours},
            })
        print(f"  {threads} thread{'s' * (threads > 1)}, {waiting} waiting: "
              + (f"{called(best)}, {best['qps']:.1f} QPS" if best else "none"))
        for row in ours:
            short = "" if self.right(row) else f"; its rank-1, {row['rank1']:.4f}, is below the limit"
            ratio = f"{ratios[called(row)]:.2f}x, " if best else ""
            print(f"    {called(row):29}{ratio}{row['qps']:.1f} QPS{short}", flush=True)
