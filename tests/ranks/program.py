"""What each process of a multi-process test runs: `python -m tests.ranks.program CASE RANK SIZE FOLDER [DEVICE]`.

On "cuda" every rank has a GPU of its own, and NCCL connects them. It writes what its rank ends with to
`FOLDER/CASE-SIZE-RANK.json`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

import fxprune
from fxprune.distributed import from_first, mine, summed, together, world
from fxprune.distributed import merged as merge


@dataclass(frozen=True)
class Shared:
    """Sums over batches and evaluations, both shared; writes down what its rank does."""

    log: Path | None = field(default=None, compare=False)
    delay: float = field(default=0.0, compare=False)
    name: str = "shared"
    needs: frozenset[str] = field(default=frozenset({"data"}))

    def score(self, context: fxprune.Context) -> fxprune.Scores:
        """Mean squares of the hidden features, and a curve."""
        layer = context.model.get_submodule("0")

        def squares(batch: Any) -> dict[str, Tensor]:
            self.note("batch")
            return {"hidden": layer(batch.args[0]).detach().double().square().sum(0).cpu()}

        def evaluate(key: str) -> dict[str, float]:
            self.note(key)
            return {"loss": 1.0 / int(key)}

        sums, count = context.accumulate("squares", squares, "measuring", limit=9)
        losses = context.evaluate(["8", "16", "32", "48", "64"], evaluate, "evaluating")
        curve = fxprune.Curve(tuple(map(int, losses)), tuple(each["loss"] for each in losses.values()))
        return fxprune.Scores(self.name, {"0": sums["hidden"] / count}, {"0": curve})

    def note(self, what: str) -> None:
        """One line for one piece of work."""
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{world()[0]} {what}\n")
        time.sleep(self.delay)


DEVICE = torch.device(*sys.argv[5:6] or ["cpu"])


def model_and_data() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """The same on every rank."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)).to(DEVICE)
    return model, [(torch.randn(5, 8), torch.randint(0, 4, (5,))) for _ in range(11)]


def described(slim: fxprune.SlimModule) -> dict[str, Any]:
    """Plan and scores, to the last bit."""
    assert slim.scores is not None
    importance = {name: each.tobytes().hex() for name, each in slim.scores.importance.items()}
    return {"plan": slim.plan.to_json(), "importance": importance}


def shared(folder: Path) -> dict[str, Any]:
    """A scorer that shares its work, with a checkpoint."""
    model, data = model_and_data()
    size = world()[1]
    options: dict[str, Any] = {"data": data, "checkpoint": folder / f"shared-{size}.ckpt"}
    return described(fxprune.compile(model, "50%", scorer=Shared(folder / f"shared-{size}.log"), **options))


def slow(folder: Path) -> dict[str, Any]:
    """The same scorer, slow enough to be killed in the middle of an evaluation."""
    model, data = model_and_data()
    scorer = Shared(folder / "slow.log", delay=0.2)
    return described(fxprune.compile(model, "50%", data=data, scorer=scorer, checkpoint=folder / "slow.ckpt"))


def built_in(name: str) -> Callable[[Path], dict[str, Any]]:
    """A built-in scorer."""

    def case(folder: Path) -> dict[str, Any]:
        model, data = model_and_data()

        def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(output, batch[1])

        def score(module: nn.Module) -> float:
            moved = [(images.to(DEVICE), labels.to(DEVICE)) for images, labels in data]
            with torch.no_grad():
                return -float(sum(loss(module(batch[0]), batch) for batch in moved))

        return described(fxprune.compile(model, "50%", scorer=name, data=data, loss=loss, score=score))

    return case


def repaired(folder: Path) -> dict[str, Any]:
    """The scorer `obs` and the repair of weights, each with its own share of the batches."""
    model, data = model_and_data()
    slim = fxprune.compile(model, "50%", scorer="obs", data=[batch[0] for batch in data])
    return {"plan": slim.plan.to_json(), "weights": {name: each.tolist() for name, each in slim.state_dict().items()}}


def language_model() -> nn.Module:
    """A small Llama, the same on every rank."""
    import tests.conftest  # noqa: F401  torchvision's operators, where its compiled extension does not load
    from tests.tiny_languages import llama

    model: nn.Module = llama(layers=2)
    return model


def stage(model: Any, rank: int) -> list[nn.Module]:
    """Half of its modules."""
    layer = model.model.layers[rank]
    return [model.model.embed_tokens, layer] if rank == 0 else [layer, model.model.norm, model.lm_head]


def spread(how: str) -> Callable[[Path], dict[str, Any]]:
    """Minitron's scores of a language model that is whole everywhere, sharded, or in a part on each rank."""

    def case(folder: Path) -> dict[str, Any]:
        shell: Any = language_model()
        weights: Any = None
        generator = torch.Generator().manual_seed(0)
        data = [{"input_ids": torch.randint(0, 64, (2, 12), generator=generator)} for _ in range(5)]
        if how != "whole":
            weights = language_model().to(DEVICE)
            shell = shell.to("meta")
        if how == "sharded":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(DEVICE.type, (world()[1],))
            for layer in (*weights.model.layers, weights):
                fully_shard(layer, mesh=mesh)
        if how == "staged":
            for module in stage(weights, 1 - world()[0]):
                module.to("meta")
        found = fxprune.score(
            shell if weights is not None else shell.to(DEVICE), "minitron", data=data, weights=weights,
            device=None if weights is None else DEVICE,
            checkpoint=folder / f"{how}-{world()[1]}.ckpt",
        )  # fmt: skip
        return {"importance": {name: each.tolist() for name, each in found.importance.items()}, "blocks": found.blocks}

    return case


def exchange(folder: Path) -> dict[str, Any]:
    """The exchanging functions themselves."""
    rank, size = world()
    values = np.random.default_rng(1).normal(size=(size, 4)) * 10.0 ** (7 * np.arange(4))
    total = summed({"all": values[rank], **({"first": values[0]} if rank == 0 else {})})
    expected = values[0]
    for row in values[1:]:
        expected = expected + row
    assert total["all"].tobytes() == expected.tobytes()
    assert total["first"].tobytes() == values[0].tobytes()
    assert merge({f"of {rank}": rank, "both": rank}) == {**{f"of {each}": each for each in range(size)}, "both": 0}
    assert from_first(lambda: ("made", rank)) == ("made", 0)
    return {"mine": list(mine("abcde"))}


def failing(folder: Path) -> dict[str, Any]:
    """One rank fails; the others must not wait for it."""
    rank, _ = world()

    def work() -> int:
        if rank == 1:
            raise ValueError("out of luck")
        return rank

    try:
        together(work)
    except (ValueError, fxprune.FxpruneError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def locked(folder: Path) -> dict[str, Any]:
    """The checkpoint cannot be opened by rank 0: all say so."""
    model, data = model_and_data()
    try:
        fxprune.compile(model, "50%", data=data, scorer=Shared(), checkpoint=folder / "nowhere" / "search.ckpt")
    except fxprune.FxpruneError as error:
        return {"error": str(error)}
    return {}


@dataclass(frozen=True)
class Full(Shared):
    """The same work; at one moment of it the file that rank 0 writes may not grow any more."""

    moment: str = field(default="opening", compare=False)
    file: Path = field(default=Path(), compare=False)

    def score(self, context: fxprune.Context) -> fxprune.Scores:
        """As without it, until the scores are complete."""
        found = super().score(context)
        self.stop("scores")
        return found

    def note(self, what: str) -> None:
        """Before a batch's sums, or an evaluation, are remembered."""
        self.stop(what)

    def stop(self, moment: str) -> None:
        """Let no file of rank 0 grow beyond a few bytes more than the checkpoint has."""
        import resource
        import signal

        if moment == self.moment and world()[0] == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            size = self.file.stat().st_size if self.file.exists() else 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))


def full(moment: str) -> Callable[[Path], dict[str, Any]]:
    """Rank 0 cannot write its checkpoint from some moment on; then it can, and the same call goes on.

    Args:
        moment: "opening" (the header), "batch" (running sums), a key of an evaluation, or "scores" (all of them).
    """

    def case(folder: Path) -> dict[str, Any]:
        import resource

        model, data = model_and_data()
        path = folder / f"full-{moment}.ckpt"
        scorer, found = Full(moment=moment, file=path), dict[str, Any]()
        scorer.stop("opening")
        try:
            fxprune.compile(model, "50%", data=data, scorer=scorer, checkpoint=path)
        except fxprune.FxpruneError as error:
            found = {"kind": type(error).__name__, "error": str(error)}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        again = Full(moment="never", file=path)
        return {**found, **described(fxprune.compile(model, "50%", data=data, scorer=again, checkpoint=path))}

    return case


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "shared": shared,
    "slow": slow,
    "exchange": exchange,
    "failing": failing,
    "repaired": repaired,
    "locked": locked,
    **{f"full-{moment}": full(moment) for moment in ("opening", "batch", "32", "scores")},
    **{how: spread(how) for how in ("whole", "sharded", "staged")},
    **{name: built_in(name) for name in ("magnitude", "minitron", "gradnas", "taylor", "fastnas")},
}


def main(cases: str, rank: int, size: int, folder: Path) -> None:
    """Join the group, run the cases one after the other, write what came out."""
    torch.set_num_threads(1)
    if DEVICE.type == "cuda":
        torch.cuda.set_device(rank)
    if size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        library = "nccl" if DEVICE.type == "cuda" else "gloo"
        distributed.init_process_group(library, init_method=f"file://{folder}/group", rank=rank, world_size=size)
    for case in cases.split(","):
        result = CASES[case](folder)
        (folder / f"{case}-{size}-{rank}.json").write_text(json.dumps(result))
    if size > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
