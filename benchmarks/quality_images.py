"""A generated image task: textured shapes under nuisance variation, made from a seed, nothing downloaded.

A label is a shape and a texture: five polygons and five stars, each filled with stripes or with checks, 20 classes. The
outline is given in polar coordinates, a point is inside where its radius is at most r(angle). With phase t in [0, 1)
within one of k equal sectors, the first tip at t = 0:

    polygon  r = cos(pi / k) / cos(2 pi / k * (t - 1/2))        regular, circumradius 1; 24 corners make the disc
    star     r = DEPTH + (1 - DEPTH) * |2 t - 1|                tips at 1, valleys at DEPTH

and the texture by the two rotated coordinates (u, v): sin(f u) > 0 for stripes, sin(f u) sin(f v) > 0 for checks.

Everything else says nothing about the label: position, size, rotation, stretch, both colours, the frequency and direction
of the texture; the background (two colours mixed by a smooth field and by waves); ellipses and bars strewn behind the
object (clutter) and, as occlusion, narrower ones across it; brightness and noise. `difficulty` scales what hides the label:
the background's pattern, clutter, occlusion, noise, and how small, stretched and faint the object may be. At 0 it stands
large and clear on one colour.

All random numbers are drawn on the CPU, so that every device makes the same images up to rounding; the drawing is done on the
device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

POLYGONS = (3, 4, 5, 6, 24)
STARS = (3, 4, 5, 6, 8)
SHAPES = len(POLYGONS) + len(STARS)
TEXTURES = 2
CLASSES = SHAPES * TEXTURES
DEPTH = 0.45
DIFFICULTY = 0.95
"""Such that a ResNet-20 ends between 90 and 95 %; `quality.py --stage calibrate` shows where it ends at several."""

CHUNK = 1000
CLUTTER = 4
FIELD = 4


@dataclass(frozen=True, slots=True)
class Canvas:
    """Pixel centres of square images, and where random numbers come from.

    Attributes:
        count: number of images.
        side: height and width.
        generator: on the CPU.
        device: where images are drawn.
    """

    count: int
    side: int
    generator: torch.Generator
    device: torch.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Random numbers [count, *shape, 1, 1], ready to be broadcast over pixels."""
        drawn = torch.rand((self.count, *shape, 1, 1), generator=self.generator)
        return (low + (high - low) * drawn).to(self.device)

    def pixels(self) -> tuple[Tensor, Tensor]:
        """Coordinates of pixel centres, from -1 to 1, as [side, 1] and [1, side]."""
        line = (torch.arange(self.side, device=self.device) + 0.5) * (2 / self.side) - 1
        return line[:, None], line[None, :]

    def placed(self, spread: float, *shape: int) -> tuple[Tensor, Tensor]:
        """Pixel coordinates moved and rotated at random, each [count, *shape, side, side]."""
        y, x = self.pixels()
        x = x - self.uniform(-spread, spread, *shape)
        y = y - self.uniform(-spread, spread, *shape)
        return rotated(x, y, self.uniform(0, 2 * math.pi, *shape))

    def coverage(self, distance: Tensor) -> Tensor:
        """Share of a pixel inside an outline: a step of one pixel's width where the distance crosses 0."""
        return (0.5 + distance * (self.side / 2)).clamp(0, 1)


def rotated(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in axes turned by an angle."""
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return x * cosine + y * sine, y * cosine - x * sine


def generate(
    count: int, *, side: int = 32, seed: int = 0, difficulty: float = DIFFICULTY, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """Make images and their labels.

    Args:
        count: number of images; classes come in equal numbers, in random order.
        side: height and width in pixels.
        seed: what decides everything; other seeds give other images of the same task.
        difficulty: 0 for clean images, more for more that hides the label.
        device: where images are drawn and stay.

    Returns:
        Images `[count, 3, side, side]` in float32, roughly of zero mean and unit variance, and labels `[count]`.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count)[torch.randperm(count, generator=generator)] % CLASSES
    parts = [
        _draw(part.to(device), Canvas(len(part), side, generator, torch.device(device)), difficulty)
        for part in labels.split(CHUNK)
    ]
    return torch.cat(parts), labels.to(device)


def _draw(labels: Tensor, canvas: Canvas, difficulty: float) -> Tensor:
    """One chunk of images: background, clutter, object, occlusion, noise."""
    images = _clutter(_background(canvas, difficulty), canvas, CLUTTER, min(1.0, 0.35 * difficulty), wide=0.35)
    images = _object(images, labels, canvas, difficulty)
    images = _clutter(images, canvas, 2, min(1.0, 0.3 * difficulty), wide=0.12)
    images = images * canvas.uniform(0.7, 1.3, 1)
    noise = torch.randn((canvas.count, 3, canvas.side, canvas.side), generator=canvas.generator).to(canvas.device)
    return (images + 0.12 * difficulty * noise - 0.5) / 0.3


def _background(canvas: Canvas, difficulty: float) -> Tensor:
    """Two colours, mixed by a smooth random field and by waves of random direction and frequency."""
    first, second = canvas.uniform(0, 1, 3), canvas.uniform(0, 1, 3)
    coarse = torch.rand((canvas.count, 1, FIELD, FIELD), generator=canvas.generator).to(canvas.device)
    field = functional.interpolate(coarse, size=(canvas.side, canvas.side), mode="bilinear", align_corners=True)
    along, _ = canvas.placed(1.0, 1)
    waves = 0.5 + 0.5 * torch.sin(along * canvas.uniform(4, 20, 1))
    share = canvas.uniform(0, 0.6, 1)
    mix = (1 - share) * field + share * waves
    return first + (second - first) * (mix * min(1.0, 2 * difficulty))


def _clutter(images: Tensor, canvas: Canvas, number: int, chance: float, wide: float) -> Tensor:
    """Ellipses and bars in one colour each, strewn over the image; each is there with a chance."""
    u, v = canvas.placed(0.9, number)
    across, along = canvas.uniform(0.05, wide, number), canvas.uniform(0.1, 0.6, number)
    bar = canvas.uniform(0, 1, number) < 0.5
    outside = torch.where(bar, torch.maximum(u.abs() / across, v.abs() / along), torch.hypot(u / across, v / along))
    shown = (canvas.uniform(0, 1, number) < chance) * canvas.coverage((1 - outside) * across)
    colours = canvas.uniform(0, 1, number, 3)
    for index in range(number):
        images = torch.lerp(images, colours[:, index], shown[:, index, None])
    return images


def _object(images: Tensor, labels: Tensor, canvas: Canvas, difficulty: float) -> Tensor:
    """The shape that the label names, filled with the texture that it names."""
    u, v = canvas.placed(0.3, 1)
    smallest, most = 0.45 + 0.2 / (1 + 4 * difficulty), 0.15 * min(1.0, 2 * difficulty)
    size, stretch = canvas.uniform(smallest, 0.75, 1), canvas.uniform(1 - most, 1 + most, 1)
    u, v = u / (size * stretch), v / (size / stretch)
    shape = (labels // TEXTURES)[:, None, None, None]
    inside = canvas.coverage((outline(torch.atan2(v, u), shape) - torch.hypot(u, v)) * size)
    filled = _texture(u, v, (labels % TEXTURES)[:, None, None, None], canvas)
    light, dark = _colours(canvas, difficulty)
    return torch.lerp(images, dark + (light - dark) * filled, inside)


def outline(angle: Tensor, shape: Tensor) -> Tensor:
    """Radius of shapes 0 .. SHAPES - 1 in the direction of an angle; the algebra is in the module's docstring."""
    corners = torch.tensor(POLYGONS + STARS, device=angle.device)[shape]
    phase = (angle * corners / (2 * math.pi)) % 1
    polygon = torch.cos(math.pi / corners) / torch.cos(2 * math.pi / corners * (phase - 0.5))
    star = DEPTH + (1 - DEPTH) * (2 * phase - 1).abs()
    return torch.where(shape < len(POLYGONS), polygon, star)


def _texture(u: Tensor, v: Tensor, texture: Tensor, canvas: Canvas) -> Tensor:
    """Stripes (0) or checks (1) in coordinates of the object, from 0 to 1 with soft edges."""
    u, v = rotated(u, v, canvas.uniform(0, 2 * math.pi, 1))
    frequency = canvas.uniform(6, 10, 1)
    waves = torch.sin(frequency * u + canvas.uniform(0, 2 * math.pi, 1))
    others = torch.sin(frequency * v + canvas.uniform(0, 2 * math.pi, 1))
    return (0.5 + 2 * torch.where(texture == 0, waves, waves * others)).clamp(0, 1)


def _colours(canvas: Canvas, difficulty: float) -> tuple[Tensor, Tensor]:
    """Two colours of the object's texture; the harder, the closer they may be."""
    middle, way = canvas.uniform(0.3, 0.7, 3), canvas.uniform(-1, 1, 3)
    way = way / way.abs().amax(dim=1, keepdim=True)
    contrast = canvas.uniform(0.45 / (1 + difficulty), 0.45, 1)
    return middle + contrast * way, middle - contrast * way
