"""What training steps call: the model itself, or it compiled, anew once other parameters train."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import icycle
from icycle.errors import TrainingError
from icycle.training import Trainer, TrainSettings

EXAMPLE = torch.zeros(1, 1, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    features = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(256, 4))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in range(3)
    ]


def trained(compile: str | None) -> nn.Sequential:
    """Trained, pruned at random, with a layer frozen for a while."""
    model = network()
    trainer = Trainer(model, TrainSettings(epochs=9, batch_size=8, compile=compile), 3)
    structure = icycle.trace(model, EXAMPLE)
    trainer.train_for(batches(), 1, lambda _: 0.05)  # type: ignore[arg-type]
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5, seed=0), trainer.optimizer)
    trainer.train_for(batches(), 1, lambda _: 0.05)  # type: ignore[arg-type]
    model[0].requires_grad_(False)
    trainer.train_for(batches(), 1, lambda _: 0.05)  # type: ignore[arg-type]
    return model


def test_compiled_steps_are_the_same_steps_before_and_after_a_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []

    def note(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        shapes.extend(value.shape for value in inputs if isinstance(value, torch.Tensor) and value.dim() == 4)
        return graph.forward

    monkeypatch.setattr(torch.compiler, "list_backends", lambda exclude_tags: ["note"])
    compile_by = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, backend, dynamic: compile_by(model, backend=note, dynamic=dynamic)
    )
    plain, compiled = trained(None), trained("note")
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert torch.Size([16, 1, 3, 3]) in shapes
    assert torch.Size([8, 1, 3, 3]) in shapes


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"train\.compile to be one of .*inductor"):
        Trainer(network(), TrainSettings(compile="indoctor"), 3)


def test_a_compiled_model_in_ones_own_loop_goes_on_by_itself() -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.05)
    pruner = icycle.OneCycle(
        compiled, EXAMPLE, budget=icycle.Budget(macs=0.5), epochs=2, steps_per_epoch=6, optimizer=optimizer
    )
    for epoch in range(2):
        pruner.start_epoch(epoch)
        for x, y in 2 * batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(compiled(x), y).backward()
            optimizer.step()
            pruner.after_step()
    assert pruner.removed
    model.eval()
    assert torch.allclose(compiled(batches()[0][0]), model(batches()[0][0]), atol=1e-6)


def test_the_launcher_s_own_accumulation_does_not_divide_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = trained(None)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    for one, other in zip(alone.parameters(), trained(None).parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_launcher_that_is_to_shard_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TrainingError, match="start processes and no more, but it was told to use FSDP"):
        Trainer(network(), TrainSettings(), 3)
