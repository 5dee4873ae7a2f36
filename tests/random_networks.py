"""Random networks, and the laws that every removal obeys.

    python tests/random_networks.py --count 10000 --seed 0

draws that many networks, checks every law on each, prints what came of it, and ends with exit code 1 where a law broke.
Each is traced by the rules and a run over shapes alone, too: where the proof in numbers says otherwise, a rule is
missing.
The same count, seed and number of processes give the same networks.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import icycle
from icycle.tracing import call_with, output_tensors, undisturbed
from proof import EXACT, as_double, check_counts, some, train_once
from random_blocks import IMAGE, LENGTHENING, ROW, SEQUENCE, SHRINKING, Block, Draw, chain, project, widths

__all__ = ["LAWS", "Sample", "networks"]

SEEDS = st.integers(0, 999)


@dataclass(frozen=True)
class Sample:
    """A network in float64 and evaluation mode, whose parameters are all different from zero, and an example input."""

    model: nn.Module
    inputs: Tensor

    def __repr__(self) -> str:
        return f"{self.model}\non {str(self.inputs.dtype).removeprefix('torch.')}{list(self.inputs.shape)}"


# ---- the networks ----


@st.composite
def networks(draw: Draw) -> Sample:
    """A stem, some blocks, perhaps as a sequence and then as a row, some more blocks, and one head or two."""
    torch.manual_seed(0)
    with torch.no_grad():
        inputs = draw(st.sampled_from([_image, _words, _row]))(draw)
        model, x = _begin(draw, inputs)
        for step in (_image_blocks, _to_sequence, _sequence_blocks, _to_row, _row_blocks, _heads):
            part = step(draw, x)
            if part is not None:
                model.append(part)
                x = part(x)
    return sample(model, inputs)


def sample(model: nn.Module, inputs: Tensor) -> Sample:
    """`model` as the laws want it: a zero or a one that some parameter starts with would prove nothing."""
    dice = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=dice))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=dice)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=dice)
    return Sample(model.double().eval(), as_double(inputs))


def _image(draw: Draw) -> Tensor:
    return torch.randn(2, 3, *[draw(st.sampled_from([4, 6]))] * 2)


def _words(draw: Draw) -> Tensor:
    return torch.randint(0, 7, (2, draw(st.integers(2, 5))))


def _row(draw: Draw) -> Tensor:
    return torch.randn(2, draw(widths))


def _begin(draw: Draw, inputs: Tensor) -> tuple[nn.Sequential, Tensor]:
    width = draw(widths)
    if inputs.dim() == 4:
        stem: nn.Module = nn.Conv2d(3, width, 3, padding=1)
    else:
        stem = nn.Linear(inputs.shape[1], width) if inputs.is_floating_point() else nn.Embedding(7, width)
    return nn.Sequential(stem), stem(inputs)


def _image_blocks(draw: Draw, x: Tensor) -> nn.Module | None:
    return chain(draw, [*IMAGE, *SHRINKING], x, 6, 2)[0] if x.dim() == 4 else None


def _sequence_blocks(draw: Draw, x: Tensor) -> nn.Module | None:
    return chain(draw, [*SEQUENCE, *LENGTHENING], x, 6, 1)[0] if x.dim() == 3 else None


def _row_blocks(draw: Draw, x: Tensor) -> nn.Module | None:
    return chain(draw, ROW, x, 5, 1)[0] if x.dim() == 2 else None


def _to_sequence(draw: Draw, x: Tensor) -> nn.Module | None:
    """Every place of the image becomes a position of a sequence; or the image stays one."""
    if x.dim() != 4 or draw(st.booleans()):
        return None
    if draw(st.booleans()):
        return Block(lambda self, x: x.flatten(2).transpose(1, 2))
    return Block(lambda self, x: x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1))


def _to_row(draw: Draw, x: Tensor) -> nn.Module | None:
    """Pooled, flattened, or one position taken; or left as it is."""
    ways: list[Callable[[Block, Tensor], Tensor]] = [
        lambda self, x: x.flatten(1),
        lambda self, x: x.view(x.size(0), -1) if x.is_contiguous() else x.reshape(x.size(0), -1),
        lambda self, x: x.mean((2, 3)) if x.dim() == 4 else x.mean(1),
        lambda self, x: x.amax((2, 3)) if x.dim() == 4 else x[:, 0],
    ]
    return None if x.dim() == 2 or draw(st.booleans()) else Block(draw(st.sampled_from(ways)))


def _heads(draw: Draw, x: Tensor) -> nn.Module:
    if draw(st.booleans()):
        return project(x, 3)
    return Block(
        lambda self, x: {"one": self.one(x), "two": self.two(torch.relu(x))}, one=project(x, 2), two=project(x, 4)
    )


# ---- the laws ----


def traced_again_it_is_the_same(sample: Sample, structure: icycle.Structure, seed: int) -> None:
    """A trace leaves no mark, says why for everything that it forbids, and comes to the same again."""
    assert all(group.reason for group in structure.groups if not group.prunable)
    assert all(group.inexact_reason for group in structure.prunable if not group.exact)
    assert _summary(icycle.trace(sample.model, sample.inputs)) == _summary(structure)


def removing_equals_zeroing(sample: Sample, structure: icycle.Structure, seed: int) -> None:
    """Over the exact groups."""
    assert icycle.testing.removal_error(sample.model, sample.inputs, some(structure, seed)) <= EXACT


def costs_are_exact(sample: Sample, structure: icycle.Structure, seed: int) -> None:
    """Torch's own counter agrees; it does not see a product over one element, for which torch multiplies."""
    subnet = gentle(structure, seed)
    if not removes(subnet):
        return
    pruned = icycle.prune(copy.deepcopy(sample.model), structure, subnet)
    with undisturbed(pruned):  # torch's fused attention layers are not counted
        check_counts(pruned, sample.inputs, structure, subnet)


def what_is_left_runs_and_trains(sample: Sample, structure: icycle.Structure, seed: int) -> None:
    """Outputs keep their shapes, and one step of training runs."""
    pruned = icycle.prune(copy.deepcopy(sample.model), structure, some(structure, seed))
    assert [out.shape for out in _outputs(sample.model, sample)] == [out.shape for out in _outputs(pruned, sample)]
    train_once(pruned, sample.inputs)


def a_pruned_network_traces_to_what_was_predicted(sample: Sample, structure: icycle.Structure, seed: int) -> None:
    """Groups keep their names, and costs are those that the first structure foretold."""
    subnet = gentle(structure, seed)
    if not removes(subnet):
        return
    again = icycle.trace(icycle.prune(copy.deepcopy(sample.model), structure, subnet), sample.inputs)
    assert {group.name: group.size for group in again.prunable} == {
        name: int(kept.sum()) for name, kept in subnet.keep.items()
    }
    for cost in structure.costs:
        assert again.cost(cost) == structure.cost(cost, subnet)


def one_removal_after_another_is_both_at_once(sample: Sample, structure: icycle.Structure, seed: int) -> None:
    """The second removal is chosen on the structure of what the first one left."""
    first = gentle(structure, seed)
    if not removes(first):
        return
    one = icycle.prune(copy.deepcopy(sample.model), structure, first)
    between = icycle.trace(one, sample.inputs)
    second = some(between, seed + 1)
    icycle.prune(one, between, second)
    both = {name: kept.clone() for name, kept in first.keep.items()}
    for name, kept in second.keep.items():
        both[name][first.keep[name]] = kept
    _assert_same(one, icycle.prune(copy.deepcopy(sample.model), structure, icycle.SubNetwork(both)), sample)


def saving_and_loading_change_nothing(sample: Sample, structure: icycle.Structure, seed: int) -> None:
    """Neither after a removal nor before it."""
    subnet = some(structure, seed)
    pruned = icycle.prune(copy.deepcopy(sample.model), structure, subnet)
    with tempfile.TemporaryDirectory() as folder:
        loaded = icycle.load(icycle.save(pruned, Path(folder) / "pruned"), copy.deepcopy(sample.model))
        dense = icycle.load(icycle.save(sample.model, Path(folder) / "dense"), copy.deepcopy(sample.model))
    _assert_same(loaded, pruned, sample)
    _assert_same(icycle.prune(dense, structure, subnet), pruned, sample)


LAWS = (
    traced_again_it_is_the_same,
    removing_equals_zeroing,
    costs_are_exact,
    what_is_left_runs_and_trains,
    a_pruned_network_traces_to_what_was_predicted,
    one_removal_after_another_is_both_at_once,
    saving_and_loading_change_nothing,
)


def gentle(structure: icycle.Structure, seed: int) -> icycle.SubNetwork:
    """A sub-network that leaves every group at least two channels: one that cannot lose any is not listed again."""
    keep = {name: kept.clone() for name, kept in some(structure, seed).keep.items()}
    for kept in keep.values():
        if kept.sum() < 2:
            kept[kept.nonzero()[0] - 1] = True
    return icycle.SubNetwork(keep)


def removes(subnet: icycle.SubNetwork) -> bool:
    return not all(kept.all() for kept in subnet.keep.values())


def _summary(structure: icycle.Structure) -> tuple[object, ...]:
    groups = tuple((group.name, group.size, group.reason, group.inexact_reason) for group in structure.groups)
    return structure.fingerprint, groups, {cost: structure.cost(cost) for cost in structure.costs}


def _outputs(model: nn.Module, sample: Sample) -> list[Tensor]:
    with torch.no_grad():
        return list(output_tensors(call_with(model.eval(), sample.inputs)))


def _assert_same(one: nn.Module, two: nn.Module, sample: Sample) -> None:
    a, b = one.state_dict(), two.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    for x, y in zip(_outputs(one, sample), _outputs(two, sample), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


# ---- many of them ----


@dataclass
class Tally:
    """What came of many networks."""

    networks: int = 0
    corrected: int = 0  # networks that the dry run corrected
    by_numbers: Counter[str] = field(default_factory=Counter)  # groups that the trial corrected, by what it found
    channels: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, sample: Sample, structure: icycle.Structure) -> None:
        """Count the groups of a structure; one that the dry run had to correct is a wrong prediction, and kept."""
        corrected = next((group.reason for group in structure.groups if "the dry run" in group.reason), None)
        if corrected:
            self.corrected += 1
            self._keep("corrected by the dry run", f"{sample}\n{corrected}")
        for group in structure.groups:
            word = "exact" if group.exact else "not exact" if group.prunable else "pinned"
            self.groups[word] += 1
            self.channels[word] += group.size
            if group.reason:
                self.reasons[group.reason.partition(": ")[0]] += 1

    def compare(self, sample: Sample, structure: icycle.Structure) -> None:
        """Count the groups that the rules alone take for something else than the proof in numbers does."""
        alone = {group.name: group for group in icycle.trace(sample.model, sample.inputs, proof="shapes").groups}
        for group in structure.groups:
            claimed = alone.get(group.name)
            if claimed is not None and (claimed.prunable, claimed.exact) != (group.prunable, group.exact):
                found = (group.reason or group.inexact_reason).partition(" at ")[0].split("error")[0]
                place = (group.pinned_by or group.inexact_by).operation
                key = f"{found} ({place})"
                self.by_numbers[key] += 1
                self._keep(f"by numbers: {key}", f"{sample}\n{group.name}: {group.reason or group.inexact_reason}")

    def fail(self, law: str, sample: Sample, seed: int) -> None:
        error = traceback.format_exc(limit=-3).strip()
        key = f"{law}: {error.splitlines()[-1][:160]}"
        self.failures[key] += 1
        self._keep(key, f"{sample}\nseed {seed}\n{error}")

    def _keep(self, key: str, text: str) -> None:
        """The shortest example of every kind."""
        if len(text) < len(self.examples.get(key, text + " ")):
            self.examples[key] = text

    def join(self, other: Tally) -> Tally:
        examples = {**other.examples, **self.examples}
        return Tally(
            self.networks + other.networks,
            self.corrected + other.corrected,
            self.by_numbers + other.by_numbers,
            self.channels + other.channels,
            self.groups + other.groups,
            self.reasons + other.reasons,
            self.failures + other.failures,
            examples,
        )


def check_many(count: int, seed: int, laws: Sequence[str] = ()) -> Tally:
    """Draw `count` networks and check laws on each: those of these names, or all."""
    torch.set_num_threads(1)
    tally = Tally()
    chosen = [law for law in LAWS if not laws or law.__name__ in laws]

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(networks(), SEEDS)
    def check(sample: Sample, seed: int) -> None:
        tally.networks += 1
        law = "trace"
        try:
            structure = icycle.trace(sample.model, sample.inputs)
            tally.add(sample, structure)
            tally.compare(sample, structure)
            for one in chosen:
                if structure.prunable or one is traced_again_it_is_the_same:
                    law = one.__name__
                    one(sample, structure, seed)
        except Exception:
            tally.fail(law, sample, seed)

    check()
    return tally


def report(tally: Tally) -> str:
    """The counts in words."""
    lines = [
        f"{tally.networks} networks, {sum(tally.failures.values())} with a broken law, {tally.corrected} corrected"
    ]
    lines += [
        f"{tally.groups[word]:>8} groups of {tally.channels[word]} channels {word}"
        for word in ("exact", "not exact", "pinned")
    ]
    lines += [f"{count:>8} pinned: {reason}" for reason, count in tally.reasons.most_common(30)]
    lines += [f"{count:>8} groups corrected by numbers: {found}" for found, count in tally.by_numbers.most_common()]
    lines += ["", *(f"{key}\n{text}" for key, text in tally.examples.items() if key.startswith("by numbers"))]
    if tally.corrected:
        lines += ["", f"{tally.corrected} corrected by the dry run", tally.examples["corrected by the dry run"]]
    for key, count in tally.failures.most_common():
        lines += ["", f"{count} times {key}", tally.examples[key]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="each draws its share from a seed of its own")
    parser.add_argument("--laws", nargs="+", default=[], choices=[law.__name__ for law in LAWS], help="default: all")
    arguments = parser.parse_args()
    shares = [arguments.count // arguments.processes] * arguments.processes
    seeds = range(arguments.seed * arguments.processes, (arguments.seed + 1) * arguments.processes)
    tally = Tally()
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(check_many, shares, seeds, [arguments.laws] * arguments.processes):
            tally = tally.join(part)
    print(report(tally))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
