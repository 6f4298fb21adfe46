"""The compared networks as lists of layers, and weights for them.

A network is a function of `ops`, which says what a layer does: `graph.Graph` writes it down as ONNX, `reference.Exact`
computes it in double precision. Tensors are named as in this engine's weights files; `ops` looks them up.
"""

import json
import subprocess

import numpy as np
from safetensors.numpy import load_file

IR_UNITS = {"ir_18": (2, 2, 2, 2), "ir_34": (3, 4, 6, 3), "ir_50": (3, 4, 14, 3), "ir_101": (3, 13, 30, 3)}
EMBEDDED = {"mobilefacenet": "mobilefacenet.safetensors", "yunet": "yunet_2023mar.safetensors"}
NETWORKS = (*IR_UNITS, *EMBEDDED)


def sides(network):
    """Height and width of an image."""
    return (640, 640) if network == "yunet" else (112, 112)


def build(network, ops, x):
    """The outputs of a network."""
    if network == "yunet":
        return yunet(ops, x)
    return [mobilefacenet(ops, x) if network == "mobilefacenet" else ir(ops, x, IR_UNITS[network])]


def ir(ops, x, units):
    """Deng et al., ArcFace (2019), section 3.1, as AdaFace publishes it: to 512 values, nothing folded."""
    x = ops.conv(x, "input_layer.0", padding=1)
    x = ops.prelu(ops.norm(x, "input_layer.1"), "input_layer.2")
    index, channels = 0, 64
    for stage, count in enumerate(units):
        width = 64 << stage
        for unit in range(count):
            stride = 2 if unit == 0 else 1
            name = f"body.{index}"
            if channels == width:
                shortcut = ops.every(x, stride) if stride > 1 else x
            else:
                shortcut = ops.conv(x, f"{name}.shortcut_layer.0", stride=stride)
                shortcut = ops.norm(shortcut, f"{name}.shortcut_layer.1")
            y = ops.norm(x, f"{name}.res_layer.0")
            y = ops.norm(ops.conv(y, f"{name}.res_layer.1", padding=1), f"{name}.res_layer.2")
            y = ops.prelu(y, f"{name}.res_layer.3")
            y = ops.norm(ops.conv(y, f"{name}.res_layer.4", stride=stride, padding=1), f"{name}.res_layer.5")
            x = ops.add(shortcut, y)
            index, channels = index + 1, width
    x = ops.linear(ops.norm(x, "output_layer.0"), "output_layer.3")
    return ops.norm(x, "output_layer.4")


def mobilefacenet(ops, x):
    """Chen et al., MobileFaceNets (2018), in the folded form with TensorFlow's padding that the engine embeds."""

    def conv(x, name, stride=1, padding=0, active=True):
        if stride == 2:
            padding = (0, 1)
        x = ops.conv(x, name, stride=stride, padding=padding)
        return ops.prelu(x, f"{name}.prelu") if active else x

    x = conv(x, "conv1", stride=2)
    x = conv(x, "dw1", padding=1)
    x = conv(x, "pw1", active=False)
    stages = (("stage2", 2, 5), ("stage3", 2, 1), ("stage4", 1, 6), ("stage5", 2, 1), ("stage6", 1, 2))
    for stage, first, blocks in stages:
        for block in range(blocks):
            name, stride = f"{stage}.{block}", first if block == 0 else 1
            y = conv(x, f"{name}.expand")
            y = conv(y, f"{name}.dw", stride=stride, padding=1)
            y = conv(y, f"{name}.project", active=False)
            x = ops.add(y, x) if stride == 1 else y
    x = conv(x, "conv7")
    x = conv(x, "gdc", active=False)
    return ops.flatten(conv(conv(x, "fc1", active=False), "fc2", active=False))


def yunet(ops, x):
    """Wu, Peng and Yu, YuNet (2023): the heads cls, obj, bbox and kps (N, C, H, W) at strides 8, 16 and 32."""

    def pair(x, name, active=True):
        x = ops.conv(ops.conv(x, f"{name}.pw"), f"{name}.dw", padding=1)
        return ops.relu(x) if active else x

    x = ops.relu(ops.conv(x, "backbone.stem.conv", stride=2, padding=1))
    x = ops.max_pool(pair(x, "backbone.stem.unit"))
    fine = []
    for stage in range(1, 6):
        for unit in (1, 2):
            x = pair(x, f"backbone.stage{stage}.unit{unit}")
        if stage >= 3:
            fine.append(x)
        if 2 <= stage <= 4:
            x = ops.max_pool(x)
    p32 = pair(fine[2], "neck.lateral32")
    p16 = pair(ops.add(fine[1], ops.double(p32)), "neck.lateral16")
    p8 = pair(ops.add(fine[0], ops.double(p16)), "neck.lateral8")
    heads = ("cls", "obj", "bbox", "kps")
    return [pair(p, f"head.{head}{at}", active=False) for at, p in ((8, p8), (16, p16), (32, p32)) for head in heads]


def values(network, outputs):
    """Outputs as this engine gives them: (N, values)."""
    if network != "yunet":
        return outputs[0]
    parts = []
    for first in range(0, 12, 4):
        head = np.concatenate(outputs[first : first + 4], axis=1)
        parts.append(head.transpose(0, 2, 3, 1).reshape(len(head), -1))
    return np.concatenate(parts, axis=1)


def weights(network, binary, assets):
    """Tensors by name: the engine's own for the small networks, else made up."""
    if network in EMBEDDED:
        return load_file(assets / EMBEDDED[network])
    shapes = json.loads(subprocess.run([binary, "tensors", network], check=True, capture_output=True).stdout)
    random = np.random.default_rng(20)
    return {name: made_up(name, shape, random).astype(np.float32) for name, shape in shapes}


def made_up(name, shape, random):
    """Values of the size that trained networks have, so that activations neither vanish nor explode."""
    part = name.rsplit(".", 1)[1]
    if len(shape) > 1:
        return random.normal(0, np.prod(shape[1:]) ** -0.5, shape)
    if part == "running_var":
        return random.uniform(0.5, 1.5, shape)
    if part in ("running_mean", "bias"):
        return random.normal(0, 0.1, shape)
    if name.endswith("res_layer.3.weight") or name == "input_layer.2.weight":
        return random.uniform(0.1, 0.4, shape)
    # The last normalisation of a residual is small, else the sum doubles with each unit.
    return random.uniform(0.8, 1.2, shape) * (0.4 if name.endswith("res_layer.5.weight") else 1.0)


def images(network, count):
    """Random input (N, 3, H, W): crops between -1 and 1, photos from 0 to 255."""
    random, shape = np.random.default_rng(21), (count, 3, *sides(network))
    if network == "yunet":
        return random.integers(0, 256, shape).astype(np.float32)
    return random.uniform(-1, 1, shape).astype(np.float32)
