"""Two processes from one's own loop: wrappers that go on once channels are gone, parameters that are sharded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch import multiprocessing as mp
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import icycle
from icycle.errors import ArtifactError, SurgeryError, TraceError
from icycle.methods import FineTune
from icycle.training import Trainer, TrainSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_available(), reason="torch is built without distributed"),
]

NEARLY = 1e-4  # sums in another order, over a few dozen steps


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 4),
    )


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.randint(4, (16,), generator=generator)


def same_everywhere(model: nn.Module) -> bool:
    """Are all parameters the same on both ranks?"""
    own = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    other = own.clone()
    distributed.broadcast(other, src=0)
    return torch.equal(own, other)


def one_cycle_on(rank: int) -> None:
    """Two ranks with data of their own: the wrapper goes on by itself once channels are gone."""
    parallel = DistributedDataParallel(network(), bucket_cap_mb=1, gradient_as_bucket_view=True)
    calls: list[int] = []
    parallel.register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05, momentum=0.9)
    pruner = icycle.OneCycle(
        parallel,
        torch.zeros(1, 1, 8, 8),
        budget=icycle.Budget(macs=0.5),
        epochs=2,
        steps_per_epoch=6,
        optimizer=optimizer,
    )
    for epoch in range(2):
        pruner.start_epoch(epoch)
        for step in range(6):
            x, y = batch(100 * rank + step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(parallel(x), y).backward()
            optimizer.step()
            pruner.after_step()
    assert pruner.removed
    assert len(calls) == 12
    assert parallel.gradient_as_bucket_view
    assert parallel.bucket_bytes_cap == 2**20
    assert same_everywhere(pruner.model)


def ice_on(rank: int) -> None:
    """Accuracies, gradients and activations of each rank are its own; what is done is rank 0's."""
    parallel = DistributedDataParallel(network())
    accuracies = iter([90.0, 60.0, 90.0, 80.0, 90.0] if rank == 0 else [90.0, 90.0, 10.0, 90.0, 10.0])
    asked: list[tuple[str, int]] = []

    def fine_tune(model: nn.Module, request: FineTune) -> None:
        assert model is parallel
        asked.append((request.kind, request.step))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=request.learning_rate)
        for step in range(3):
            x, y = batch(100 * rank + step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    result = icycle.ice(
        parallel,
        torch.zeros(1, 1, 8, 8),
        fine_tune=fine_tune,
        evaluate=lambda model: next(accuracies),
        ratio=0.5,
        steps="group",
        criterion="mean_activation",
        compensate=False,  # each step by itself
        loader=[batch(100 * rank + number) for number in range(2)],
        freeze=0.4,
        epochs=1,
        final_epochs=1,
    )
    assert [step.decision.fire for step in result.steps] == [True, False]
    assert asked == [("step", 1), ("final", 2)]
    assert same_everywhere(result.model)


def plain() -> nn.Sequential:
    """Without batch norm: two processes do to the bit, but for rounding, what one does with the whole batch."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 13, 3), nn.ReLU(), nn.Conv2d(13, 11, 3), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*convolutions, nn.Sequential(nn.Linear(176, 9), nn.ReLU(), nn.Linear(9, 4)))


def shard(model: nn.Sequential) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for module in model:
        if any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def difference(sharded: nn.Module, whole: nn.Module) -> float:
    pairs = zip(sharded.parameters(), whole.parameters(), strict=True)
    return max(float((one.full_tensor() - other).abs().max()) for one, other in pairs)  # type: ignore[operator]


def step(models: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], rank: int, seed: int) -> None:
    """The first model learns from this rank's half of a batch, the second from all of it."""
    x, y = batch(seed)
    halves = slice(8 * rank, 8 * rank + 8), slice(None)
    for model, optimizer, part in zip(models, optimizers, halves, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()


def sharded_on(rank: int, folder: str) -> None:
    """FSDP2: a removal cuts the parts of parameters, gradients and state; saved as the model that is whole."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    example = torch.zeros(1, 1, 8, 8)
    model, whole = models = plain(), plain()
    structure = icycle.trace(model, example)
    shard(model)
    optimizers = [torch.optim.AdamW(each.parameters(), lr=0.01) for each in models]
    for seed in range(3):
        step(models, optimizers, rank, seed)
    with torch.no_grad():
        model(example)  # leaves the root's parameters whole
    scores = icycle.saliency.group_norm(model, structure)
    subnet = icycle.select(structure, scores, icycle.Budget(macs=0.5))
    for each, optimizer in zip(models, optimizers, strict=True):
        icycle.prune(each, structure, subnet, optimizer)
    for seed in range(3, 6):
        step(models, optimizers, rank, seed)
    assert difference(model, whole) < NEARLY
    assert all(type(value).__name__ == "DTensor" for value in model.parameters())

    with pytest.raises(ArtifactError, match="get_model_state_dict"):
        icycle.save(model, f"{folder}/sharded")
    with pytest.raises(TraceError, match="before fully_shard"):
        icycle.trace(model, example)
    fresh = plain()
    icycle.prune(fresh, structure, subnet)
    fresh.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
    assert torch.allclose(fresh(batch(9)[0]), whole(batch(9)[0]), atol=1e-4)


def sharded_one_cycle_on(rank: int) -> None:
    model, whole = models = plain(), plain()
    options: dict[str, Any] = {"budget": icycle.Budget(macs=0.5), "epochs": 3, "steps_per_epoch": 8}
    pruners = [icycle.OneCycle(each, torch.zeros(1, 1, 8, 8), **options) for each in models]
    shard(model)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9) for each in models]
    for pruner, optimizer in zip(pruners, optimizers, strict=True):
        pruner.optimizer = optimizer
    for epoch in range(3):
        for pruner in pruners:
            pruner.start_epoch(epoch)
        for number in range(8):
            step(models, optimizers, rank, 8 * epoch + number)
            for pruner in pruners:
                pruner.after_step()
    assert pruners[0].removed
    assert pruners[0].report.shrink_start is not None
    assert pruners[0].subnet == pruners[1].subnet
    assert difference(model, whole) < NEARLY


def zero_optimizer_on(rank: int) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = plain()
    structure = icycle.trace(model, torch.zeros(1, 1, 8, 8))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.1)
    before = list(model.parameters())
    with pytest.raises(SurgeryError, match="ZeroRedundancyOptimizer gives each parameter"):
        icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5, 0), optimizer)
    assert all(one is other for one, other in zip(before, model.parameters(), strict=True))


def accumulating_on(rank: int) -> None:
    """The processes talk once a step, at its last batch; what they make of it is what the whole batches make."""
    batches = [batch(seed) for seed in range(7)]
    settings = TrainSettings(epochs=2, batch_size=16, accumulate=3)
    learner = Trainer(plain(), settings, len(batches))
    talks: list[int] = []
    parallel = learner._called()
    assert isinstance(parallel, DistributedDataParallel)
    parallel.register_comm_hook(None, lambda _, bucket: talks.append(learner.step) or allreduce_hook(_, bucket))
    learner.fit(batches, batches)
    assert learner.step == learner.steps == 6
    assert talks == list(range(6))
    assert same_everywhere(learner.model)

    whole = plain()
    optimizer = settings.optimizer.build(whole.parameters())
    for number in range(6):
        window = batches[:3], batches[3:6], batches[6:]
        x, y = (torch.cat(parts) for parts in zip(*window[number % 3], strict=True))
        optimizer.param_groups[0]["lr"] = 0.1 * settings.schedule.factor((number + 0.5) / 6)
        optimizer.zero_grad()
        nn.functional.cross_entropy(whole(x), y).backward()
        optimizer.step()
    pairs = zip(learner.model.parameters(), whole.parameters(), strict=True)
    assert max(float((one - other).abs().max()) for one, other in pairs) < NEARLY


def own_loops(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    one_cycle_on(rank)
    ice_on(rank)
    accumulating_on(rank)
    sharded_on(rank, folder)
    sharded_one_cycle_on(rank)
    zero_optimizer_on(rank)
    distributed.barrier()  # a rank that leaves while another still talks to it aborts
    distributed.destroy_process_group()


def test_ones_own_loop_in_two_processes(tmp_path: Path) -> None:
    mp.spawn(own_loops, args=(str(tmp_path),), nprocs=2)
