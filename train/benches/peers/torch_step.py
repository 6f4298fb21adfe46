"""PyTorch in a process of its own: does as many training steps as each line of stdin says, as `step_time serve` does.

IR-18 with an AdaFace head, written from the papers' layer tables in the way one writes it in PyTorch: modules, autograd,
`torch.optim.SGD` in its fused form.
"""

import json
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 10_000
WIDTHS = (64, 128, 256, 512)
UNITS = 2
MARGIN, STRENGTH, SCALE, NEW = 0.4, 0.333, 64.0, 0.01


class Unit(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN; beside it every so-manyth pixel, or 1x1 and BN."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


class Ir18(nn.Module):
    def __init__(self):
        super().__init__()
        inputs, units = 64, []
        for width in WIDTHS:
            for unit in range(UNITS):
                units.append(Unit(inputs, width, 1 if unit else 2))
                inputs = width
        self.first = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body = nn.Sequential(*units)
        self.last = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.4), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512, affine=False)
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x):
        return self.last(self.body(self.first(x)))


class AdaFace(nn.Module):
    """Kim et al. 2022: s(cos(angle - m z) - (m + m z)) at the own class, z the norm by its running statistics."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(F.normalize(torch.rand(512, CLASSES) * 2 - 1, dim=0))
        self.mean, self.std = 20.0, 100.0

    def forward(self, raw, labels):
        norms = raw.norm(dim=1, keepdim=True)
        cosines = (raw / norms @ F.normalize(self.kernel, dim=0)).clamp(-1 + 1e-3, 1 - 1e-3)
        with torch.no_grad():
            safe = norms.clamp(0.001, 100)
            self.mean = NEW * safe.mean().item() + (1 - NEW) * self.mean
            self.std = NEW * safe.std().item() + (1 - NEW) * self.std
            z = (STRENGTH * (safe - self.mean) / (self.std + 1e-3)).clamp(-1, 1)
        own = cosines.gather(1, labels[:, None])
        angle = (own.acos() - MARGIN * z).clamp(1e-3, math.pi - 1e-3)
        logits = cosines.scatter(1, labels[:, None], angle.cos() - MARGIN - MARGIN * z)
        return F.cross_entropy(SCALE * logits, labels)


def main():
    layout, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    network, head = Ir18().train(), AdaFace()
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(batch, 3, 112, 112, generator=generator) * 2 - 1
    labels = torch.arange(batch)
    if layout == "channels_last":
        network, images = network.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    norms = {parameter for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
             for parameter in module.parameters(recurse=False)}
    others = [parameter for parameter in network.parameters() if parameter not in norms]
    groups = [{"params": [*others, head.kernel], "weight_decay": 5e-4}, {"params": list(norms), "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True)
    parameters = sum(parameter.numel() for group in groups for parameter in group["params"])
    say({"version": torch.__version__, "parameters": parameters})
    for line in sys.stdin:
        times, loss = [], None
        for _ in range(int(line)):
            start = time.perf_counter()
            sgd.zero_grad(set_to_none=True)
            loss = head(network(images), labels)
            loss.backward()
            sgd.step()
            times.append((time.perf_counter() - start) * 1e3)
        say({"ms": times, "loss": None if loss is None else loss.item()})


def say(answer):
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
