"""The verification of a user's own model: it holds for sound removals, and says so where something does not hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle import testing
from icycle.errors import StructureError
from icycle.testing import verify
from networks import IMAGE, TOKENS, Branches, Words, differences, snapshot
from test_cli import command


def found(verification: testing.Verification) -> dict[str, bool | None]:
    return {check.name: check.held for check in verification.checks}


@pytest.mark.parametrize(("build", "inputs"), [(Branches, IMAGE), (Words, TOKENS)])
def test_every_promise_holds_and_the_model_is_as_it_was(build: type[nn.Module], inputs: Tensor) -> None:
    model = build().train()
    before = snapshot(model)
    verification = verify(model, inputs)
    assert set(found(verification).values()) == {True}
    assert verification.held
    assert differences(before, snapshot(model)) == []


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_counted(layer: Any) -> None:
    """Torch's counter does not see into the fused kernel of a processor; the verification must not be misled."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.out = layer(5, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.recurrent(x)[0][:, -1])

    assert set(found(verify(Net(), torch.randn(2, 4, 5))).values()) == {True}


def test_a_batch_of_one_trains_on_the_example_twice() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    assert found(verify(model, torch.randn(1, 4)))["a training step runs"] is True


def test_what_the_model_itself_cannot_do_is_not_tested() -> None:
    class Fixed(nn.Module):
        """Insists on float32, and gives nothing to train on."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return self.b(self.a(x).relu()).detach()

    verification = verify(Fixed(), torch.randn(3, 4))
    assert found(verification)["removing equals zeroing, in float64"] is None
    assert found(verification)["a training step runs"] is None
    assert verification.held
    assert "float32 only" in verification.checks[0].found


def test_a_broken_promise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "zero", lambda *_: None)  # nothing is zeroed: removing must differ
    verification = verify(Branches(), IMAGE)
    assert not verification.held
    broken = [check for check in verification.checks if not check.held]
    assert [check.name for check in broken] == [
        "removing equals zeroing, in float64",
        "removing equals zeroing, in float32",
    ]


def test_a_cost_that_is_not_as_predicted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icycle.Structure, "macs", lambda self, subnet=None: 7)
    checks = {check.name: check for check in verify(Branches(), IMAGE).checks}
    check = checks["multiply-accumulates are as predicted"]
    assert check.held is False
    assert check.found.endswith("but 7 were predicted")


def test_a_model_without_channels_to_remove_is_refused() -> None:
    with pytest.raises(StructureError, match="all 2 are pinned"):
        verify(nn.Linear(3, 2), torch.randn(1, 3))


# ---- the command ----


def test_the_command_prints_what_held(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "verify", "small-cnn") == 0
    shown = capsys.readouterr().out
    assert shown.count("yes") == 7
    assert "were removed from a copy" in shown


def test_the_command_fails_where_something_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(testing, "zero", lambda *_: None)
    assert command(monkeypatch, "verify", "small-cnn", "--json") == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["held"] is False
    assert [check["held"] for check in shown["checks"][:2]] == [False, False]


def test_the_command_takes_a_model_with_its_own_inputs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "verified_network.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n"
        "    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))\n"
        "    return model, torch.tensor([[1, 2, 8]])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert command(monkeypatch, "verify", "verified_network:make", "--ratio", "0.25", "--seed", "3") == 0
    assert capsys.readouterr().out.count("yes") == 7


def test_a_model_with_computed_weights() -> None:
    """copy.deepcopy refuses such tensors."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        first = nn.utils.weight_norm(nn.Linear(4, 8))
    verification = verify(nn.Sequential(first, nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))
    assert verification.held and [group.size for group in verification.structure.prunable] == [8]
