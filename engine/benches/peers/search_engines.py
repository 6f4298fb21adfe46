"""Engines that search vectors. As a script: builds one in a process of its own, measures it, and prints JSON lines."""

import ctypes
import gc
import itertools
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from search_vectors import BLOCK, HITS, load

# Graphs: the list of candidates kept while a graph is built, and while it is walked.
BUILD_LIST, WALK_LISTS = 200, (64, 128, 256, 512, 1024, 2048)
# Lists of an inverted file that are looked through.
PROBED = (1, 4, 16, 64, 256, 1024)
# Rows from which a list's centre is learnt, and rows for the ranges of 8-bit values.
ROWS_A_LIST, ROWS_A_RANGE = 50, 65_536
# A turn goes through all searches until it has taken at least so long, as `bench search` does; it ends when it has taken too long,
# but not before so many searches. Searches before it, so long, count for nothing.
LEAST_S, TURN_S, TURN_SEARCHES = 1, 20, 100
WARM_UP_S = 0.3


def lists(rows):
    """Lists of an inverted file: the power of two nearest to four times the square root; 4096 for a million rows."""
    return 1 << max(4, round(np.log2(4 * rows**0.5)))


class Faiss:
    """An index of faiss, by the name that its factory gives it."""

    knob = None

    def __init__(self, shape, name, threads):
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(threads)
        # Queries that wait go through matrix products, by default only from 20 on.
        faiss.cvar.distance_compute_blas_threshold = 8
        count = lists(shape[0])
        self.index = faiss.index_factory(shape[1], name.format(lists=count), faiss.METRIC_INNER_PRODUCT)
        self.learn_from, self.settings = ROWS_A_RANGE, [None]
        if name.startswith("HNSW"):
            self.knob, self.settings = "ef", WALK_LISTS
            self.index.hnsw.efConstruction = BUILD_LIST
        elif name.startswith("IVF"):
            self.knob, self.settings = "nprobe", [number for number in PROBED if number <= count]
            self.index.cp.niter = 10
            self.learn_from = max(ROWS_A_RANGE, count * ROWS_A_LIST)

    def learn(self, rows):
        if not self.index.is_trained:
            self.index.train(np.array(rows[:: max(1, len(rows) // self.learn_from)]))

    def add(self, first, block):
        self.index.add(block)

    def prepare(self, queries):
        return queries

    def set(self, setting, threads):
        self.faiss.omp_set_num_threads(threads)
        if self.knob == "ef":
            self.index.hnsw.efSearch = setting
        elif self.knob:
            self.index.nprobe = setting

    def search(self, queries):
        return self.index.search(queries, HITS)[1]

    def write(self, path):
        self.faiss.write_index(self.index, path)

    def read(self, path):
        self.index = self.faiss.read_index(path)


class Hnswlib:
    knob, settings = "ef", WALK_LISTS

    def __init__(self, shape, name, threads):
        import hnswlib

        self.index, self.threads = hnswlib.Index("ip", shape[1]), threads
        self.index.init_index(shape[0], M=int(name), ef_construction=BUILD_LIST)
        self.crew = None

    def learn(self, rows):
        pass

    def add(self, first, block):
        self.index.add_items(block, np.arange(first, first + len(block)), num_threads=self.threads)

    def prepare(self, queries):
        return queries

    def set(self, setting, threads):
        self.index.set_ef(setting)
        self.threads, self.crew = threads, ThreadPoolExecutor(threads)

    def search(self, queries):
        # It takes one thread, whatever it is told, for fewer than four queries a thread.
        if 1 < self.threads and 1 < len(queries) <= 4 * self.threads:
            parts = np.array_split(queries, min(self.threads, len(queries)))
            return np.vstack(list(self.crew.map(lambda part: self.index.knn_query(part, HITS, 1)[0], parts)))
        return self.index.knn_query(queries, HITS, self.threads)[0]

    def write(self, path):
        self.index.save_index(path)

    def read(self, path):
        self.index.load_index(path)


class Usearch:
    """Rows are scaled so that the largest value is 127: its own conversion scales by the length and finds less."""

    knob, settings = "ef", WALK_LISTS

    def __init__(self, shape, name, threads):
        from usearch.index import Index

        self.threads = threads
        self.index = Index(ndim=shape[1], metric="cos", dtype="i8", connectivity=int(name), expansion_add=BUILD_LIST)

    def learn(self, rows):
        pass

    def add(self, first, block):
        self.index.add(np.arange(first, first + len(block)), self.prepare(block), threads=self.threads)

    def prepare(self, queries):
        return np.round(queries * (127 / np.abs(queries).max(axis=1, keepdims=True))).astype(np.int8)

    def set(self, setting, threads):
        self.index.expansion_search, self.threads = setting, threads

    def search(self, queries):
        return self.index.search(queries, HITS, threads=self.threads).keys.reshape(len(queries), -1).astype(np.int64)

    def write(self, path):
        self.index.save(path)

    def read(self, path):
        self.index.load(path)


PEERS = {
    "faiss-flat": (Faiss, "Flat"),
    "faiss-sq8": (Faiss, "SQ8"),
    "faiss-ivf": (Faiss, "IVF{lists},Flat"),
    "faiss-ivf-sq8": (Faiss, "IVF{lists},SQ8"),
    "faiss-hnsw16": (Faiss, "HNSW16,Flat"),
    "faiss-hnsw32": (Faiss, "HNSW32,Flat"),
    "faiss-hnsw16-sq8": (Faiss, "HNSW16_SQ8"),
    "faiss-hnsw32-sq8": (Faiss, "HNSW32_SQ8"),
    "hnswlib": (Hnswlib, "16"),
    "usearch-i8": (Usearch, "16"),
}


def memory():
    """Bytes of this process that no file stands behind, after freed ones have been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024


def build(engine, rows):
    """Seconds that learning and adding take, without reading the rows to add, and bytes of a row."""
    # Ones, as zeros would take no memory until rows are copied there.
    block, taken = np.ones((BLOCK, rows.shape[1]), np.float32), 0.0
    before = memory()
    started = time.perf_counter()
    engine.learn(rows)
    taken += time.perf_counter() - started
    for first in range(0, len(rows), BLOCK):
        part = block[: min(BLOCK, len(rows) - first)]
        np.copyto(part, rows[first : first + BLOCK])
        started = time.perf_counter()
        engine.add(first, part)
        taken += time.perf_counter() - started
    return taken, (memory() - before) / len(rows)


def kept(engine, rows, job):
    """As `build`, or what it gave in a run before that left its index."""
    index = Path(job["indexes"]) / f"{job['engine']}-{rows.shape[0]}x{rows.shape[1]}"
    note = index.with_suffix(".json")
    if note.exists():
        engine.read(str(index))
        return json.loads(note.read_text())
    index.parent.mkdir(parents=True, exist_ok=True)
    built = build(engine, rows)
    engine.write(str(index))
    note.write_text(json.dumps(built))
    return built


def turn(engine, batches):
    """Searches a second, and the milliseconds that half and 99 % of them waited at most."""
    warm = time.perf_counter() + WARM_UP_S
    for batch in itertools.cycle(batches):
        engine.search(batch)
        if time.perf_counter() >= warm:
            break
    times, total, searches = [], 0, 0
    while total < LEAST_S:
        for batch in batches:
            started = time.perf_counter()
            engine.search(batch)
            times.append(time.perf_counter() - started)
            total += times[-1]
            searches += len(batch)
            if total > TURN_S and searches >= TURN_SEARCHES:
                break
    p50, p99 = np.quantile(times, (0.5, 0.99), method="higher") * 1e3
    return searches / total, float(p50), float(p99)


def measure(engine, queries, job):
    """A row for each setting, number of threads and number of queries that wait, and what each setting finds."""
    found = {}
    for setting in engine.settings:
        engine.set(setting, job["build_threads"])
        found[setting] = engine.search(queries).tolist()
    for threads in job["threads"]:
        for waiting in job["concurrency"]:
            batches = [queries[at : at + waiting] for at in range(0, len(queries), waiting)]
            turns = {setting: [] for setting in engine.settings}
            for _ in range(job["rounds"]):
                for setting in engine.settings:
                    engine.set(setting, threads)
                    turns[setting].append(turn(engine, batches))
            for setting, results in turns.items():
                qps, p50, p99 = map(statistics.median, zip(*results))
                tell({
                    "setting": f"{engine.knob} {setting}" if engine.knob else "",
                    "threads": threads,
                    "concurrency": waiting,
                    "qps": qps,
                    "p50_ms": p50,
                    "p99_ms": p99,
                    "rounds": len(results),
                    "found": found[setting],
                })


def tell(answer):
    print(json.dumps(answer), flush=True)


def main():
    job = json.loads(sys.argv[1])
    rows, queries = (load(job[name], job["dim"]) for name in ("rows", "queries"))
    kind, name = PEERS[job["engine"]]
    try:
        engine = kind(rows.shape, name, job["build_threads"])
    except ImportError as error:
        tell({"failed": f"cannot be imported: {error}"})
        return
    seconds, grown = kept(engine, rows, job) if job["indexes"] else build(engine, rows)
    tell({"build_s": seconds, "bytes_per_row": grown})
    if not job["build_only"]:
        measure(engine, engine.prepare(np.array(queries)), job)


if __name__ == "__main__":
    main()
