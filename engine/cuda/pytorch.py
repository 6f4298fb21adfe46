"""Faces a second of IR networks in PyTorch on a GPU, for `tests/gpu.sh`: bf16, channels last, eager and compiled.

Weights are random: only the time counts. A pass is measured as `gpu_check faces` does, from pixels on the device to features
on the host, and one line of JSON is printed for each measurement.
"""

import argparse
import json
import time

import torch
from torch import nn

UNITS = {"ir_18": (2, 2, 2, 2), "ir_34": (3, 4, 6, 3), "ir_50": (3, 4, 14, 3), "ir_101": (3, 13, 30, 3)}


class Unit(nn.Module):
    """Deng et al., ArcFace (2019), section 3.1: the improved residual unit."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        if inputs == outputs:
            self.shortcut = nn.MaxPool2d(1, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


def build(name):
    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    channels = 64
    for stage, count in enumerate(UNITS[name]):
        for unit in range(count):
            layers.append(Unit(channels, 64 << stage, 2 if unit == 0 else 1))
            channels = 64 << stage
    head = [nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 49, 512), nn.BatchNorm1d(512)]
    return nn.Sequential(*layers, *head).eval()


def measure(run, pixels):
    """The median over half a second and at least five passes, in seconds."""

    def once():
        start = time.perf_counter()
        run(pixels).float().cpu()
        return time.perf_counter() - start

    for _ in range(3):
        once()
    count = min(max(int(0.5 / once()), 5), 200)
    return sorted(once() for _ in range(count))[count // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", choices=UNITS)
    parser.add_argument("--batches", default="1,8,64,256")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    torch.manual_seed(1)
    device = torch.device("cuda")
    for name in arguments.networks:
        network = build(name).to(device, torch.bfloat16, memory_format=torch.channels_last)
        forms = {"pytorch eager": network}
        if not arguments.no_compile:
            forms["pytorch compile"] = torch.compile(network)
        for batch in map(int, arguments.batches.split(",")):
            pixels = torch.rand(batch, 3, 112, 112, device=device, dtype=torch.bfloat16)
            pixels = pixels.to(memory_format=torch.channels_last)
            for form, run in forms.items():
                with torch.inference_mode():
                    seconds = measure(run, pixels)
                line = {
                    "engine": form, "network": name, "precision": "bf16", "batch": batch,
                    "ms": seconds * 1e3, "faces_per_s": batch / seconds,
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
