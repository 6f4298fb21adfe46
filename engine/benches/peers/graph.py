"""A network written down as ONNX, layer by layer as published: what to fold and to merge is up to each engine."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save, shape_inference

OPSET = 17


class Graph:
    """What layers do, as nodes; a value is the name of a node's output."""

    def __init__(self, tensors):
        self.tensors, self.nodes, self.constants = tensors, [], {}

    def node(self, kind, inputs, **attributes):
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name, values):
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def tensor(self, name):
        return self.constant(name, self.tensors[name])

    def conv(self, x, name, stride=1, padding=0):
        weight = self.tensors[f"{name}.weight"]
        before, after = padding if isinstance(padding, tuple) else (padding, padding)
        # No layer has filters of one channel but depthwise ones.
        group = len(weight) if weight.shape[1] == 1 else 1
        parts = [f"{name}.weight", f"{name}.bias"]
        inputs = [x] + [self.tensor(part) for part in parts if part in self.tensors]
        shape = list(weight.shape[2:])
        pads = [before, before, after, after]
        return self.node("Conv", inputs, kernel_shape=shape, strides=[stride] * 2, pads=pads, group=group)

    def norm(self, x, name):
        width = len(self.tensors[f"{name}.running_mean"])
        parts = []
        for part, default in (("weight", 1), ("bias", 0), ("running_mean", None), ("running_var", None)):
            full = f"{name}.{part}"
            known = full in self.tensors
            parts.append(self.tensor(full) if known else self.constant(full, np.full(width, default, np.float32)))
        return self.node("BatchNormalization", [x, *parts], epsilon=1e-5)

    def prelu(self, x, name):
        return self.node("PRelu", [x, self.constant(name, self.tensors[f"{name}.weight"].reshape(-1, 1, 1))])

    def relu(self, x):
        return self.node("Relu", [x])

    def add(self, x, y):
        return self.node("Add", [x, y])

    def every(self, x, stride):
        return self.node("MaxPool", [x], kernel_shape=[1, 1], strides=[stride] * 2)

    def max_pool(self, x):
        return self.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])

    def double(self, x):
        scales = self.constant("twice", np.array([1, 1, 2, 2], np.float32))
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.node("Resize", [x, "", scales], **modes)

    def flatten(self, x):
        return self.node("Flatten", [x], axis=1)

    def linear(self, x, name):
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return self.node("Gemm", [self.flatten(x), weight, bias], transB=1)

    def save(self, path, shape, outputs):
        """Writes a graph from `input` of a shape to `outputs`. A dimension that is a string is left open."""
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", inputs, outputs, list(self.constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        model = shape_inference.infer_shapes(model, strict_mode=True)
        checker.check_model(model)
        save(model, path)
