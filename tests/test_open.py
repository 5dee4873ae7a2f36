"""What a recipe may name is open: registered late, by a module that is imported, an entry point, or an import path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from icycle.cli import main
from icycle.errors import CriterionError, RecipeError
from icycle.methods import Method, MethodResult, methods, register
from icycle.recipes import RunFolder, dump_recipe, load_recipe, run_recipe
from icycle.registry import did_you_mean
from icycle.saliency import CRITERIA, check, score
from icycle.saliency._registry import _registered
from icycle.training import SGD

ACME = """
    import torch
    from icycle.methods import Dense, register
    from icycle.saliency import criterion
    from icycle.training import Optimizer, Schedule

    @register
    class Late(Dense):
        name: str = "{prefix}late"
        strength: float = 1.0
        budget: dict = {{}}

    @criterion("{prefix}ones")
    def ones(model, structure):
        return {{group.name: torch.ones(group.size) for group in structure.prunable}}

    def plain(model, structure, *, seed):
        return {{group.name: torch.full((group.size,), float(seed)) for group in structure.prunable}}

    class Power(Schedule):
        power: float = 2.0

        def _decay(self, progress):
            return (1 - progress) ** self.power

    class Plain(Optimizer):
        learning_rate: float = 0.5

        def build(self, parameters):
            return torch.optim.SGD(parameters, lr=self.learning_rate)

    number = 3
    broken = [].pop
"""
DENSE = "{data: {name: digits, subset: 300}, model: {name: small-cnn, width: 8}, method: {name: dense}, %s}"


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a module in the current folder, another one for every test."""
    name = f"acme_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(dedent(ACME.format(prefix=f"{name}-")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    for criterion in [each for each in CRITERIA if each.startswith(name)]:  # the registry is every test's
        del _registered[criterion]


def recipe(folder: Path, text: str) -> str:
    (folder / "own.yaml").write_text(text)
    return str(folder / "own.yaml")


def test_a_method_registered_after_the_recipes_were_imported_is_known() -> None:
    @register
    class Afterwards(Method):
        name: str = "afterwards"
        strength: float = 1.0

        def run(self, context: Any) -> MethodResult:
            return MethodResult(validation_accuracy=0.0)

    loaded = load_recipe("digits", ["method.name=afterwards", "method.strength=2"])
    assert loaded.method == Afterwards(strength=2.0)
    with pytest.raises(RecipeError, match=r"method\.strenght: unknown key; did you mean 'strength'"):
        load_recipe("digits", ["method.name=afterwards", "method.strenght=2"])


def test_a_recipe_imports_what_registers_its_method(acme: str, tmp_path: Path) -> None:
    written = recipe(tmp_path, DENSE % f"imports: [{acme}]")
    loaded = load_recipe(written, [f"method.name={acme}-late"])
    assert type(loaded.method) is methods()[f"{acme}-late"]
    other = load_recipe("digits", [f"method.name={acme}-late"])  # what its class has is known before it is chosen
    assert other.method.budget == {"macs": 0.5}  # type: ignore[attr-defined]
    assert load_recipe(recipe(tmp_path, dump_recipe(loaded))) == loaded


def test_an_import_path_names_a_method_a_schedule_and_an_optimizer(acme: str, tmp_path: Path) -> None:
    sections = f"schedule: {{name: '{acme}:Power', power: 3}}, optimizer: {{name: '{acme}:Plain'}}, epochs: 1"
    written = recipe(tmp_path, DENSE % f"train: {{{sections}}}")
    loaded = load_recipe(written, [f"method.name={acme}:Late", "method.strength=7"])
    assert loaded.method.strength == 7  # type: ignore[attr-defined]
    assert loaded.train.schedule.factor(0.5) == 0.125
    assert load_recipe(recipe(tmp_path, dump_recipe(loaded))) == loaded
    run_recipe(loaded, RunFolder(tmp_path / "run"))
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")) == loaded


def test_an_entry_point_names_a_method(acme: str, tmp_path: Path) -> None:
    info = tmp_path / f"{acme}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {acme}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[icycle.methods]\nfrom-afar = {acme}:Late\nbad = {acme}_not_there:X\n")
    sys.path.insert(0, str(tmp_path))
    loaded = load_recipe("digits", ["method.name=from-afar", "method.strength=7"])
    assert type(loaded.method).__name__ == "Late"
    with pytest.raises(RecipeError, match="did you mean 'from-afar'"):
        load_recipe("digits", ["method.name=from-afr"])
    with pytest.raises(RecipeError, match="uninstall the package"):
        load_recipe("digits", ["method.name=bad"])


def test_the_command_imports_first_and_a_resumed_run_does_so_again(
    acme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = recipe(tmp_path, DENSE % "train: {epochs: 1}")
    monkeypatch.setattr(
        sys,
        "argv",
        ["icycle", "--import", acme, "run", written, "--set", f"method.name={acme}-late", "--output", "run"],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr()
    assert load_recipe("run/recipe.yaml").imports == (acme,)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("method.name={acme}:nothing", "Expected 'nothing' in {acme}, but it has none"),
        ("method.name={acme}_2:Late", "No module named '{acme}_2'"),
        ("method.name={acme}:number", "expected a subclass of icycle.methods.Method, but got 3"),
        ("train.schedule.name={acme}:Plain", "expected a subclass of icycle.training.Schedule"),
        ("imports=[{acme}_2]", "imports.0: Expected to import {acme}_2"),
    ],
)
def test_a_wrong_import_path_says_what_was_expected(acme: str, setting: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", [setting.format(acme=acme)])
    assert words.format(acme=acme) in str(caught.value)


def test_a_criterion_of_ones_own_by_name_and_by_import_path(acme: str) -> None:
    import icycle

    model, inputs = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)), torch.ones(1, 4)
    structure = icycle.trace(model, inputs)
    (group,) = structure.prunable
    assert check(f"{acme}:plain").inputs == ("seed",)
    assert score(f"{acme}:plain", model, structure, seed=5)[group.name].tolist() == [5.0] * 6
    assert score(f"{acme}-ones", model, structure)[group.name].tolist() == [1.0] * 6
    loaded = load_recipe("digits-ice", [f"method.criterion={acme}:plain"])
    assert loaded.method.criterion == f"{acme}:plain"  # type: ignore[attr-defined]
    with pytest.raises(CriterionError, match="did you mean 'group_norm'"):
        check("group_nrm")


def test_another_method_keeps_the_budget_and_nothing_else() -> None:
    base = load_recipe("digits")
    changed = load_recipe("digits", ["method.name=iterative"])
    assert changed.method.budget == base.method.budget  # type: ignore[attr-defined]
    assert changed.method.round_to == 1  # type: ignore[attr-defined]
    assert load_recipe("digits", ["method.name=one-shot", "method.ratio=0.3"]).method.budget is None  # type: ignore[attr-defined]
    assert "budget" not in load_recipe("digits", ["method.name=dense"]).method.model_dump()


# YAML that is none, or too much


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]", "alias to what it stands in"),
        ("[" * 100 + "]" * 100, "nested deeper"),
        ("[" * 20_000, "nested deeper"),
        ("seed: 1\nseed: 2", "'seed' for the second time in line 2"),
        ("train: {epochs: 1, epochs: 2}", "'epochs' for the second time"),
        ("seed: \udce4".encode("utf-8", "surrogateescape"), "UTF-8"),
        ("seed: 2001-99-99", "cannot be read"),
        (b"x: " + b"y" * 300_000, "of at most"),
        ("seed: [", "cannot be read"),
    ],
)
def test_a_recipe_that_is_not_one_is_refused_at_once(tmp_path: Path, text: str | bytes, words: str) -> None:
    (tmp_path / "own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "own.yaml"))
    assert words in str(caught.value)


def test_an_alias_is_welcome_where_it_stands_for_little(tmp_path: Path) -> None:
    text = "{data: {name: digits}, model: {name: small-cnn}, method: &m {name: dense}, train: &t {epochs: 3, <<: {}}}"
    assert load_recipe(recipe(tmp_path, text)).train.epochs == 3


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epochs=true", "train.epochs: expected no true or false here, but got True"),
        ("train.optimizer={name: adamw, betas: [true, 0.5]}", "train.optimizer.betas: expected no true or false"),
        ("method.budget.macs=true", "method.budget.macs: "),
        ("seed=1e300", "seed: "),
        ("train.epochs=1e300", "train.epochs: "),
        ("train.optimizer.learning_rate=1e300", "train.optimizer.learning_rate: expected a number up to 1e+15"),
        ("train.epochs=" + "9" * 40, "train.epochs: expected a number up to 1e+15"),
        ("train.epochs=" + "9" * 6000, "cannot be read"),
        ("method.name=[one, two]", "method.name: a name is needed here"),
        ("method=3", "method: expected keys and values"),
        ("data.augment=3", "data.augment: "),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(setting: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", [setting])
    assert words in str(caught.value)


def test_true_stays_true_where_it_is_expected() -> None:
    loaded = load_recipe("digits", ["train.channels_last=true", "train.optimizer.nesterov=false"])
    assert loaded.train.channels_last is True
    assert loaded.train.optimizer == SGD(learning_rate=0.05)


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("cosin", ["cosine", "constant"]) == "did you mean 'cosine'?"
    assert did_you_mean("zzz", ["b", "a"]) == "known are: a, b"
