"""Vectors that lie as those of faces do, the exact answer to each search, and how right other answers are."""

import json
from dataclasses import asdict, dataclass

import numpy as np

SEED = 7
# What is written: a note of the sizes, the rows, and what is looked for among them.
MADE = ("vectors.json", "rows.f32", "queries.f32")
# Rows made, compared or added at a time.
BLOCK = 16_384
# Hits of a search.
HITS = 10
# Rows with the best f32 scores that are scored again in f64, and how far the two scores may lie apart.
KEPT, MARGIN = 50, 1e-5
# A row counts as one of the ten when its score is this close to that of the tenth.
TIE = 1e-6


@dataclass(frozen=True)
class Shape:
    """What is enrolled and what is looked for."""

    rows: int
    dim: int
    images: int
    probes: int
    seed: int = SEED

    @property
    def people(self):
        return -(-self.rows // self.images)

    def looked_for(self):
        """The person of each probe."""
        random = np.random.default_rng([self.seed, 1])
        return random.choice(self.people, self.probes, replace=self.probes > self.people)


class Faces:
    """Draws people and images of them: directions vary unequally, the participation ratio is about 0.4 of the dimension."""

    def __init__(self, dim, seed):
        self.random = np.random.default_rng([seed, 0])
        variance = np.exp(-np.arange(dim) / (dim * 100 / 512))
        rotation, _ = np.linalg.qr(self.random.standard_normal((dim, dim)))
        self.mixing = (np.sqrt(variance / variance.sum())[:, None] * rotation.T).astype(np.float32)

    def people(self, count):
        return unit(self.random.standard_normal((count, len(self.mixing)), np.float32) @ self.mixing)

    def images(self, people):
        strength = np.sqrt(self.random.uniform(0.25, 1, (len(people), 1))).astype(np.float32)
        return unit(people + strength * self.people(len(people)))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(shape, folder):
    """Writes `rows.f32`, the images of person 0, of person 1 and so on, and `queries.f32`; kept ones serve again."""
    note, rows, queries = (folder / name for name in MADE)
    wanted = json.dumps(asdict(shape))
    if note.exists() and note.read_text() == wanted and rows.exists() and queries.exists():
        return rows, queries
    note.unlink(missing_ok=True)
    faces = Faces(shape.dim, shape.seed)
    looked_for = shape.looked_for()
    centres = np.empty((shape.probes, shape.dim), np.float32)
    at_once = max(1, BLOCK // shape.images)
    with rows.open("wb") as file:
        for first in range(0, shape.people, at_once):
            people = faces.people(min(at_once, shape.people - first))
            mine = (looked_for >= first) & (looked_for < first + len(people))
            centres[mine] = people[looked_for[mine] - first]
            images = faces.images(np.repeat(people, shape.images, axis=0))
            # The last person may have fewer.
            images[: shape.rows - first * shape.images].astype("<f4", copy=False).tofile(file)
    faces.images(centres).astype("<f4", copy=False).tofile(queries)
    note.write_text(wanted)
    return rows, queries


def load(path, dim):
    """A file of vectors, mapped."""
    return np.memmap(path, "<f4", "r").reshape(-1, dim)


class Exact:
    """What a search that compares every row in f64 finds, and how far the answers of others agree."""

    def __init__(self, shape, rows, queries):
        self.shape, self.rows, self.queries = shape, rows, queries.astype(np.float64)
        self.people = shape.looked_for()
        kept, quick = self.preselect(queries)
        self.scores = self.score(kept)
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, :HITS]
        self.ids = np.take_along_axis(kept, order, 1)
        # A row that was not kept scores at most the lowest f32 score kept and the margin; by far enough below the tenth, it
        # cannot belong to the ten or tie with them. Where that does not hold, every row is scored in f64.
        if np.abs(self.scores - quick).max() > MARGIN / 2:
            raise SystemExit("f32 and f64 scores lie further apart than the exact reference allows for")
        self.scores = np.take_along_axis(self.scores, order, 1)
        unsafe = self.scores[:, -1] - TIE <= quick.min(axis=1) + MARGIN
        for at in np.flatnonzero(unsafe) if kept.shape[1] < shape.rows else ():
            scores = self.every(self.queries[at])
            self.ids[at] = np.argsort(-scores, kind="stable")[:HITS]
            self.scores[at] = scores[self.ids[at]]
        self.checked_again = int(unsafe.sum()) if kept.shape[1] < shape.rows else 0
        self.rank_1 = self.first_right(self.ids)

    def preselect(self, queries):
        """Rows with the best f32 scores of each query, and these scores."""
        queries = np.ascontiguousarray(queries)
        ids, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        for first in range(0, len(self.rows), BLOCK):
            block = queries @ self.rows[first : first + BLOCK].T
            if block.shape[1] > KEPT:
                best = np.argpartition(block, -KEPT, axis=1)[:, -KEPT:]
            else:
                best = np.broadcast_to(np.arange(block.shape[1]), block.shape)
            ids = np.hstack([ids, best + first])
            scores = np.hstack([scores, np.take_along_axis(block, best, 1)])
            if ids.shape[1] > KEPT:
                best = np.argpartition(scores, -KEPT, axis=1)[:, -KEPT:]
                ids, scores = np.take_along_axis(ids, best, 1), np.take_along_axis(scores, best, 1)
        return ids, scores

    def score(self, ids):
        """f64 scores of named rows, a list for each query; of no row, where the name is -1, minus infinity."""
        scores = np.empty(ids.shape)
        for at, query in enumerate(self.queries):
            scores[at] = self.rows[np.maximum(ids[at], 0)].astype(np.float64) @ query
        scores[ids < 0] = -np.inf
        return scores

    def every(self, query):
        blocks = range(0, len(self.rows), BLOCK)
        return np.concatenate([self.rows[first : first + BLOCK].astype(np.float64) @ query for first in blocks])

    def first_right(self, ids):
        """Share of the queries whose first row is one of the person looked for."""
        return float(np.mean((ids[:, 0] >= 0) & (ids[:, 0] // self.shape.images == self.people)))

    def judge(self, lists, scores=None):
        """Rank-1 and recall@10 of lists of rows, best first, and the largest error of the scores where there are any."""
        ids = np.full((self.shape.probes, HITS), -1, np.int64)
        for at, found in enumerate(lists):
            ids[at, : len(found[:HITS])] = found[:HITS]
        if ids.max() >= self.shape.rows or ids.min() < -1:
            raise ValueError(f"row {ids.max() if ids.max() >= self.shape.rows else ids.min()} is named, which there is not")
        exact = self.score(ids)
        right = exact >= self.scores[:, -1:] - TIE
        # A row that is named twice counts once.
        hits = [min(HITS, len(set(found[good]))) for found, good in zip(ids, right)]
        quality = {"rank1": self.first_right(ids), "recall_at_10": float(np.mean(hits)) / HITS}
        if scores is not None:
            stated = np.array([np.pad(np.array(own[:HITS], float), (0, HITS - len(own[:HITS]))) for own in scores])
            quality["score_error"] = float(np.abs(stated - exact)[ids >= 0].max(initial=0))
        return quality
