"""The vocoder of LTX-2.0 in thirty lines of torch, as a side: see "Another port" in ``parity/README.md``."""
# ruff: noqa: B905, RUF012

import torch
from torch import nn
from torch.nn.functional import leaky_relu

from parity.sides.port import NotComparableError, Part
from parity.sides.torch.port import TorchPort


class Residual(nn.Module):
    def __init__(self, channels, kernel, dilations):
        super().__init__()
        self.dilated = nn.ModuleList(nn.Conv1d(channels, channels, kernel, 1, "same", d) for d in dilations)
        self.plain = nn.ModuleList(nn.Conv1d(channels, channels, kernel, 1, "same") for _ in dilations)

    def forward(self, x):
        for dilated, plain in zip(self.dilated, self.plain):
            x = x + plain(leaky_relu(dilated(leaky_relu(x, 0.1)), 0.1))
        return x


class ToyVocoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.kinds = config["upsample_initial_channel"], len(config["resblock_kernel_sizes"])
        sizes = list(zip(config["upsample_kernel_sizes"], config["upsample_rates"]))
        self.first = nn.Conv1d(128, width, 7, 1, 3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(width >> i, width >> (i + 1), k, r, (k - r) // 2) for i, (k, r) in enumerate(sizes)
        )
        kinds = list(zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"]))
        self.blocks = nn.ModuleList(Residual(width >> (i + 1), *kind) for i in range(len(sizes)) for kind in kinds)
        self.last = nn.Conv1d(width >> len(sizes), 2, 7, 1, 3)

    def forward(self, mel):
        x = self.first(mel.transpose(2, 3).flatten(1, 2))
        for i, up in enumerate(self.ups):
            x = up(leaky_relu(x, 0.1))
            x = sum(block(x) for block in self.blocks[i * self.kinds : (i + 1) * self.kinds]) / self.kinds
        return torch.tanh(self.last(leaky_relu(x)))


def make(config):
    if "bwe" in config["vocoder"]:
        raise NotComparableError("it is of LTX-2.0 only")
    return ToyVocoder(config["vocoder"])


class SIDE(TorchPort):
    name, version = "toy", "1"
    renames = (("conv_pre", "first"), ("conv_post", "last"), ("resblocks", "blocks"))
    renames += (("convs1", "dilated"), ("convs2", "plain"))
    components = {"vocoder": Part(make, lambda model, case: model(case.x), renames)}
