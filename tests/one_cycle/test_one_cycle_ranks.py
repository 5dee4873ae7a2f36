"""Several processes, and wrappers around the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed, nn

from icycle.errors import TrainingError
from icycle.methods import OneCycle
from networks import residual_network as make_model
from one_cycle_toy import EXAMPLE, HALF, idle


def on_rank(rank: int, folder: str) -> None:
    """Ranks whose weights have drifted apart must still agree."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(rank)), alpha=0.1)
    pruner = OneCycle(model, EXAMPLE, budget=HALF, epochs=2, steps_per_epoch=10)
    idle(pruner, 2, 10)
    assert pruner.removed
    keep = torch.cat([kept.int() for kept in pruner.subnet.keep.values()])
    total = keep.clone()
    distributed.all_reduce(total)
    assert torch.equal(total, 2 * keep)
    with pytest.raises(TrainingError, match="same on all 2 ranks"):
        OneCycle(make_model(8 + 8 * rank), EXAMPLE, budget=HALF, epochs=2)
    distributed.barrier()  # a rank that leaves while another still talks to it aborts
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_available(), reason="torch is built without distributed")
def test_all_ranks_remove_what_the_first_decides(tmp_path: Path) -> None:
    mp.spawn(on_rank, args=(str(tmp_path),), nprocs=2)


def test_wrappers_are_looked_through() -> None:
    class Compiled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

    model = make_model()
    assert OneCycle(nn.DataParallel(Compiled(model)), EXAMPLE, budget=HALF, epochs=2).model is model
