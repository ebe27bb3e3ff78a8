"""Architectures written by hand, with any widths: what somebody would write who knew the widths beforehand.

Each is built from the shapes of a state dict alone, geometry (strides, padding, which blocks add their input) from its
paper: ResNet (arXiv 1512.03385), MobileNetV2 (1801.04381), BERT (1810.04805). Names are torchvision's and Transformers',
so that a slim module's state dict fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Shapes = Mapping[str, Sequence[int]]


def conv(shapes: Shapes, name: str, stride: int = 1, *, depthwise: bool = False) -> nn.Conv2d:
    """A convolution without bias, padded to keep its size at stride 1."""
    out, inputs, size, _ = shapes[f"{name}.weight"]
    groups = out if depthwise else 1
    return nn.Conv2d(inputs * groups, out, size, stride, size // 2, groups=groups, bias=False)


def norm(shapes: Shapes, name: str) -> nn.BatchNorm2d:
    """A BatchNorm."""
    return nn.BatchNorm2d(shapes[f"{name}.weight"][0])


def linear(shapes: Shapes, name: str) -> nn.Linear:
    """A linear layer with bias."""
    out, inputs = shapes[f"{name}.weight"]
    return nn.Linear(inputs, out)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added, through a 1x1 convolution where the size changes."""

    def __init__(self, shapes: Shapes, name: str, stride: int) -> None:
        """Build it from what stands under `name`."""
        super().__init__()
        self.conv1, self.bn1 = conv(shapes, f"{name}.conv1", stride), norm(shapes, f"{name}.bn1")
        self.conv2, self.bn2 = conv(shapes, f"{name}.conv2"), norm(shapes, f"{name}.bn2")
        self.downsample = (
            nn.Sequential(conv(shapes, f"{name}.downsample.0", stride), norm(shapes, f"{name}.downsample.1"))
            if f"{name}.downsample.0.weight" in shapes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, channels, height, width]."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.downsample(x))


class ResNet18(nn.Module):
    """ResNet-18."""

    def __init__(self, shapes: Shapes) -> None:
        """Build it."""
        super().__init__()
        self.conv1, self.bn1, self.maxpool = conv(shapes, "conv1", 2), norm(shapes, "bn1"), nn.MaxPool2d(3, 2, 1)
        for stage in range(1, 5):
            strides = (1 if stage == 1 else 2, 1)
            blocks = [BasicBlock(shapes, f"layer{stage}.{index}", stride) for index, stride in enumerate(strides)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = linear(shapes, "fc")

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, 3, height, width]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; the input is added where the size stays."""

    def __init__(self, shapes: Shapes, name: str, stride: int, *, widen: bool, residual: bool) -> None:
        """Build it from what stands under `name`."""
        super().__init__()
        self.residual = residual
        steps = [activated(shapes, f"{name}.conv.0", 1)] if widen else []
        steps.append(activated(shapes, f"{name}.conv.{len(steps)}", stride, depthwise=True))
        last = len(steps)
        self.conv = nn.Sequential(*steps, conv(shapes, f"{name}.conv.{last}"), norm(shapes, f"{name}.conv.{last + 1}"))

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, channels, height, width]."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


def activated(shapes: Shapes, name: str, stride: int, *, depthwise: bool = False) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU6."""
    return nn.Sequential(conv(shapes, f"{name}.0", stride, depthwise=depthwise), norm(shapes, f"{name}.1"), nn.ReLU6())


class MobileNetV2(nn.Module):
    """MobileNetV2, by table 2 of its paper: how often each block is repeated, and the stride of the first."""

    stages = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))

    def __init__(self, shapes: Shapes) -> None:
        """Build it."""
        super().__init__()
        blocks: list[nn.Module] = [activated(shapes, "features.0", 2)]
        for stage, (count, stride) in enumerate(self.stages):
            for index in range(count):
                name, first = f"features.{len(blocks)}", index == 0
                step = stride if first else 1
                blocks.append(InvertedResidual(shapes, name, step, widen=stage > 0, residual=not first))
        blocks.append(activated(shapes, f"features.{len(blocks)}", 1))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Identity(), linear(shapes, "classifier.1"))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, 3, height, width]."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class BertLayer(nn.Module):
    """Attention and feed-forward network, each added to its input and normalised."""

    def __init__(self, shapes: Shapes, name: str, heads: int) -> None:
        """Build it from what stands under `name`."""
        super().__init__()
        self.heads = heads
        own, hidden = f"{name}.attention", shapes[f"{name}.output.LayerNorm.weight"][0]
        query, key, value = (linear(shapes, f"{own}.self.{part}") for part in ("query", "key", "value"))
        attention = nn.ModuleDict({"query": query, "key": key, "value": value})
        after = nn.ModuleDict({"dense": linear(shapes, f"{own}.output.dense"), "LayerNorm": bert_norm(hidden)})
        self.attention = nn.ModuleDict({"self": attention, "output": after})
        self.intermediate = nn.ModuleDict({"dense": linear(shapes, f"{name}.intermediate.dense")})
        self.output = nn.ModuleDict({"dense": linear(shapes, f"{name}.output.dense"), "LayerNorm": bert_norm(hidden)})

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states [batch, length, features]."""
        batch, length, _ = x.shape
        parts = (self.attention["self"][part](x) for part in ("query", "key", "value"))  # type: ignore[index]
        query, key, value = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        # Heads that lost dimensions keep the scale of the original, whose heads have 64.
        found = functional.scaled_dot_product_attention(query, key, value, scale=64**-0.5)
        after = self.attention["output"]
        x = after["LayerNorm"](x + after["dense"](found.transpose(1, 2).flatten(2)))  # type: ignore[index]
        inner = functional.gelu(self.intermediate["dense"](x))
        hidden: Tensor = self.output["LayerNorm"](x + self.output["dense"](inner))
        return hidden


def bert_norm(width: int) -> nn.LayerNorm:
    """LayerNorm as BERT has it."""
    return nn.LayerNorm(width, eps=1e-12)


class Bert(nn.Module):
    """BERT's encoder with its pooler, for one sentence without padding."""

    def __init__(self, shapes: Shapes, heads: Sequence[int]) -> None:
        """Build it with so many heads in each layer."""
        super().__init__()
        tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        embeddings: dict[str, nn.Module] = {name: nn.Embedding(*shapes[f"embeddings.{name}.weight"]) for name in tables}
        embeddings["LayerNorm"] = bert_norm(shapes["embeddings.LayerNorm.weight"][0])
        self.embeddings = nn.ModuleDict(embeddings)
        layers = [BertLayer(shapes, f"encoder.layer.{index}", count) for index, count in enumerate(heads)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.pooler = nn.ModuleDict({"dense": linear(shapes, "pooler.dense")})

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [batch, length, features] and pooled output [batch, features] of tokens [batch, length]."""
        tables = self.embeddings
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = tables["word_embeddings"](input_ids) + tables["token_type_embeddings"](torch.zeros_like(input_ids))
        x = tables["LayerNorm"](x + tables["position_embeddings"](positions))
        for layer in self.encoder["layer"]:  # type: ignore[union-attr]
            x = layer(x)
        return x, torch.tanh(self.pooler["dense"](x[:, 0]))
