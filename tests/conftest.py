"""What all tests share: one thread, and torchvision's operators where its compiled extension does not load."""

from __future__ import annotations

import torch

from fxprune.cli.vision_operators import declare_vision_operators

# One: tests run small operations, and threads that wait for each other cost more than they bring on a busy machine.
torch.set_num_threads(1)
declare_vision_operators()
