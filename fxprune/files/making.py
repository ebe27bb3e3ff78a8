"""Have the user's own class, slimmed, remember how it was made."""

from __future__ import annotations

from torch import nn

from fxprune.errors import CheckpointError
from fxprune.files.record import refuse, remember
from fxprune.files.save import content_of_slim
from fxprune.slim_module import SlimModule


def remember_making(model: nn.Module, slim: SlimModule) -> None:
    """Leave a record on a model that has been cut as the slim module is; of one that files cannot hold, why."""
    try:
        content = content_of_slim(slim)
    except CheckpointError as error:
        refuse(model, str(error))
    else:
        remember(model, content)
