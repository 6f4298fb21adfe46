"""A network computed in double precision with NumPy: slow, and independent of every engine that is compared."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Exact:
    """What layers do, as values (N, C, H, W)."""

    def __init__(self, tensors):
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def conv(self, x, name, stride=1, padding=0):
        weight, bias = self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")
        before, after = padding if isinstance(padding, tuple) else (padding, padding)
        x = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
        windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
        if weight.shape[1] == 1:
            y = np.einsum("nchwij,cij->nchw", windows, weight[:, 0])
        else:
            y = np.stack([np.tensordot(weight, one, ((1, 2, 3), (0, 3, 4))) for one in windows])
        return y if bias is None else y + bias[:, None, None]

    def norm(self, x, name):
        def get(part, default):
            return self.tensors.get(f"{name}.{part}", default).reshape(-1, *[1] * (x.ndim - 2))

        one, zero = np.ones(x.shape[1]), np.zeros(x.shape[1])
        mean, variance = get("running_mean", zero), get("running_var", one)
        return (x - mean) / np.sqrt(variance + 1e-5) * get("weight", one) + get("bias", zero)

    def prelu(self, x, name):
        return np.where(x > 0, x, x * self.tensors[f"{name}.weight"][:, None, None])

    def relu(self, x):
        return np.maximum(x, 0)

    def add(self, x, y):
        return x + y

    def every(self, x, stride):
        return x[:, :, ::stride, ::stride]

    def max_pool(self, x):
        images, channels, height, width = x.shape
        return x.reshape(images, channels, height // 2, 2, width // 2, 2).max((3, 5))

    def double(self, x):
        return x.repeat(2, axis=2).repeat(2, axis=3)

    def flatten(self, x):
        return x.reshape(len(x), -1)

    def linear(self, x, name):
        return self.flatten(x) @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
