"""Gives generated requests content that a schema cannot describe.

A random embedding is of no model and random bytes are no image: left alone, nearly every request would be refused
before it reaches a gallery. So in requests that are meant to be valid, most embeddings become real ones (of the running
server's model and dimension) and most images a 112 by 112 PNG, which counts as a face where the request says that it is
aligned. Requests that are meant to be invalid are left as they are.

VULTUS_MODEL_ID and VULTUS_DIMENSION come from the script that starts the server.
"""

import base64
import math
import os
import random
import struct
import uuid
import zlib

import schemathesis
from schemathesis import GenerationMode
from schemathesis.generation.jsonschema import strategy as generation
from schemathesis.specs.openapi import checks
from schemathesis.transport.serialization import Binary

MODEL_ID = os.environ["VULTUS_MODEL_ID"]
DIMENSION = int(os.environ["VULTUS_DIMENSION"])
# Bounds of fractional numbers in the document.
BOUNDS = {-1.0, 0.0, 0.05, 0.1, 1.0, 100.0}
SINGLE_BOUNDS = {struct.pack("f", bound) for bound in BOUNDS}


class Lenient:
    """A validator that takes bytes for a string: schemathesis makes them for `format: binary`, then fails on them."""

    def __init__(self, validator):
        self.validator = validator

    def is_valid(self, value):
        return self.validator.is_valid(text_for_bytes(value))


def text_for_bytes(value):
    if isinstance(value, Binary):
        return ""
    if isinstance(value, dict):
        return {name: text_for_bytes(item) for name, item in value.items()}
    if isinstance(value, list):
        return [text_for_bytes(item) for item in value]
    return value


validator_for = generation.build_validator_for
generation.build_validator_for = lambda schema: Lenient(validator_for(schema))


# Reports are resources of their own: a gallery that was just made has none yet.
REPORTS = ("/calibration", "/clusters", "/duplicates", "/leave_one_out")
created_a_resource = checks._created_a_resource
checks._created_a_resource = lambda *, case, **rest: not case.path.endswith(REPORTS) and created_a_resource(
    case=case, **rest
)


def png(seed):
    """A 112 by 112 RGB image of smooth colours."""
    shade = random.Random(seed)
    a, b, c = (shade.randrange(1, 6) for _ in range(3))
    rows = b"".join(
        b"\0" + bytes(v & 255 for x in range(112) for v in (a * x + y, b * y + x, c * (x ^ y))) for y in range(112)
    )

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 112, 112, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PNGS = [png(seed) for seed in range(4)]


def embedding(seed):
    """A unit vector."""
    draw = random.Random(seed)
    values = [draw.gauss(0, 1) for _ in range(DIMENSION)]
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def enrich(body, draw):
    for item in body.get("embeddings") or []:
        if isinstance(item, dict):
            item |= {"embedding": embedding(draw.randrange(8)), "norm": draw.uniform(20, 90), "model_id": MODEL_ID}
    for item in body.get("images") or []:
        if isinstance(item, dict):
            item |= {"data": base64.b64encode(draw.choice(PNGS)).decode(), "aligned": draw.random() < 0.7}


def rounds_to_a_bound(value):
    """Whether a number is another one than a bound of the document but the same in single precision.

    The server reads single precision, so 1.0000000000000002 is 1 to it and keeps to a maximum of 1. Such numbers are
    not sent: the document cannot say this, and either answer to them is right.
    """
    if isinstance(value, dict):
        return any(map(rounds_to_a_bound, value.values()))
    if isinstance(value, list):
        return any(map(rounds_to_a_bound, value))
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or isinstance(value, Binary):
        return False
    try:
        number = float(value)
        return number not in BOUNDS and struct.pack("f", number) in SINGLE_BOUNDS
    except (ValueError, OverflowError):
        return False


@schemathesis.hook
def filter_query(context, query):
    return not rounds_to_a_bound(dict(query or {}))


@schemathesis.hook
def filter_body(context, body):
    return not rounds_to_a_bound(body)


@schemathesis.hook
def map_body(context, body):
    """Raw images and the images of forms. No string of bytes is invalid by itself, so this changes no request's kind."""
    if isinstance(body, Binary):
        draw = random.Random(body.data)
        return Binary(draw.choice(PNGS)) if draw.random() < 0.8 else body
    if isinstance(body, dict) and isinstance(body.get("image"), list):
        return body | {"image": [map_body(context, item) for item in body["image"]]}
    return body


@schemathesis.hook
def before_call(context, case, kwargs):
    """Images and embeddings in JSON, and a key of its own for each request that carries one.

    Under a key used before, the answer of before is sent again, also when what it made is gone by now.
    """
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
    if case.media_type == "application/json" and isinstance(case.body, dict):
        draw = random.Random(repr((case.path_parameters, case.query, case.body)))
        if draw.random() < 0.8:
            enrich(case.body, draw)
