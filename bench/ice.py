"""ICE against fine-tuning after every step, on Fashion-MNIST: time, accuracy, and what each part of it is worth.

    python bench/ice.py
    python bench/ice.py --model vgg16-bn

Everything is that of the recipe `fashion-ice`, or `fashion-ice-vgg`, unless an option says otherwise. Per seed one
network is trained and saved; every variant starts from its weights, removes the same number of channels from the same
groups at each step, and knows the same epoch. The seconds of a variant run from the loaded network to the pruned one,
with all tracing, searching, probing, tuning, recalibration and evaluation; reading the data and the test set do not
count. Every run has its own process, and variants take turns within a seed.

    iterative              fine-tune for an epoch, at a constant rate, after every step: the baseline
    iterative-decay        the same, with a rate that runs to zero within each epoch
    one-shot               remove everything at once, then fine-tune for --final epochs at a decaying rate
    ice-published          the published settings, no recalibration, exact evaluation, constant rates
    ice-self-tuned         ICE that tunes itself first, from the method's defaults; the tuning counts
    ice                    ICE with the recipe's tuned settings
    no-trigger, no-freezing, no-curve, no-compensation, no-recalibration, no-final, exact
                           the last one without the part named (exact: every decision reads the whole split); a part
                           that the tuned settings leave out is put in instead: with-freezing
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _common import (
    RESULTS,
    Record,
    Results,
    by_setting,
    command,
    in_fresh_process,
    machine,
    mean_and_deviation,
    provenance,
    table,
)
from safetensors.torch import load_file, save_file

from icycle.engine import trace
from icycle.methods import (
    Context,
    Curve,
    Dense,
    IceMethod,
    IcePublished,
    Iterative,
    Method,
    OneShot,
    Stepwise,
    TuneSettings,
)
from icycle.recipes import Recipe, load_recipe
from icycle.report import compare_latency
from icycle.training import Recorder, evaluate, run_device
from icycle.tuning import tune
from icycle.zoo import Data, build_model, load_data

MAIN = ("iterative", "iterative-decay", "one-shot", "ice-published", "ice-self-tuned", "ice")
ABLATIONS = (
    *("no-trigger", "no-freezing", "with-freezing", "no-curve", "no-compensation", "no-recalibration", "no-final"),
    "exact",
)
VARIANTS = (*MAIN, *ABLATIONS)

_LATENCY_BATCHES = (1, 64)
_SHARED = (
    "ratio",
    "budget",
    "groups",
    "steps",
    "scope",
    "round_to",
    "limit",
    "criterion_batches",
    "epochs",
)
_TOGETHER = ("recipe", "machine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", choices=("resnet20", "resnet56", "resnet110", "vgg16-bn"), default="resnet56")
    parser.add_argument("--width", type=int, help="channels of the model's first stage (default: the recipe's)")
    parser.add_argument("--subset", type=int, help="training images, validation included (default: the recipe's)")
    parser.add_argument("--epochs", type=int, help="of training the dense network (default: the recipe's)")
    parser.add_argument("--precision", choices=("no", "bf16"), help="default: the recipe's")
    parser.add_argument("--recipe", help="another one, by name or path: its tuned settings")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate of the iterative baseline")
    parser.add_argument("--trials", type=int, default=3, help="of the self-tuning")
    parser.add_argument("--share", type=float, default=0.1, help="of the training images that a trial uses")
    parser.add_argument("--drop", type=float, default=4.0, help="the points that a trial may lose on that share")
    parser.add_argument("--final", type=int, default=4, help="epochs after one-shot pruning")
    parser.add_argument("--set", nargs="+", default=[], metavar="A.B=C", help="other values of the recipe")
    parser.add_argument("--train-only", action="store_true", help="train the dense networks that are missing, no more")
    parser.add_argument("--out", type=Path, default=RESULTS / "ice.jsonl", help="JSON lines; finished runs are skipped")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-ice"), help="where trained networks are kept")
    arguments = parser.parse_args()
    if arguments.train_only:
        for seed in arguments.seeds:
            _dense(_recipe(arguments), seed, arguments.cache)
        return
    print(tables(run_all(arguments)))


def run_all(arguments: argparse.Namespace) -> list[Record]:
    """Run what is not in `arguments.out` yet; the records of what was asked for."""
    results = Results(arguments.out)
    recipe = _recipe(arguments)
    chosen = [(name, _variant(name, recipe, arguments)) for name in arguments.variants if _applies(name, recipe)]
    wanted: list[Record] = []
    for seed in arguments.seeds:
        for name, method in chosen:
            key = {
                "recipe": _common_part(recipe),
                "variant": name,
                "method": method.model_dump(mode="json"),
                "seed": seed,
            }
            record = results.find(**key)
            if record is None:
                dense = _dense(recipe, seed, arguments.cache)
                print(f"{name}, seed {seed} ...", flush=True)
                found = in_fresh_process(_run, recipe, method, seed, dense)
                record = {"version": 1, **key, **found, "command": command()}
                results.append(record)
            print(_one_line(record), flush=True)
            wanted.append(record)
    return wanted


# What is run


def _recipe(arguments: argparse.Namespace) -> Recipe:
    residual = arguments.model.startswith("resnet")
    given = {
        "model.name": arguments.model,
        "model.width": arguments.width,
        "data.subset": arguments.subset,
        "train.epochs": arguments.epochs,
        "train.precision": arguments.precision,
        "method.groups": '["*.conv1"]' if residual else '["*"]',  # a block's inner channels, as published
        "method.steps": "group",
    }
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    recipe = arguments.recipe or ("fashion-ice" if residual else "fashion-ice-vgg")
    return load_recipe(recipe, [*overrides, *arguments.set])


def _applies(name: str, recipe: Recipe) -> bool:
    """An ablation of what the recipe's settings leave out is none."""
    method = recipe.method
    assert isinstance(method, IceMethod)
    left_out = {"no-freezing" if method.freeze == 0 else "with-freezing"}
    return name not in left_out and not (name == "no-curve" and method.curve.delta == 0)


def _variant(name: str, recipe: Recipe, arguments: argparse.Namespace) -> Stepwise:
    """The method that a variant stands for."""
    ice = recipe.method
    assert isinstance(ice, IceMethod)
    shared = {field: getattr(ice, field) for field in _SHARED}
    constant = Curve(base=arguments.rate, delta=0.0)
    tune_settings = {"trials": arguments.trials, "share": arguments.share, "drop": arguments.drop}
    plain: dict[str, Stepwise] = {
        "iterative": Iterative(**shared, curve=constant),
        "iterative-decay": Iterative(**shared, curve=constant, decay=True),
        "one-shot": OneShot(**shared, curve=ice.curve, final_epochs=arguments.final),
        "ice-published": IcePublished(**shared),
        "ice-self-tuned": IceMethod(
            **shared,
            calibration_batches=ice.calibration_batches,
            final_epochs=ice.final_epochs,
            tune=TuneSettings(**tune_settings),
        ),
    }
    changes: dict[str, dict[str, Any]] = {
        "ice": {},
        "no-trigger": {"threshold": None},
        "no-freezing": {"freeze": 0.0},
        "with-freezing": {"freeze": 0.3},
        "no-curve": {"curve": ice.curve.flat()},
        "no-compensation": {"compensate": False},
        "no-recalibration": {"calibrate": False},
        "no-final": {"final_epochs": 0},
        "exact": {"confidence": None},
    }
    return plain[name] if name in plain else ice.model_copy(update={**changes[name], "tune": None})


def _common_part(recipe: Recipe) -> dict[str, Any]:
    """All of the recipe that the variants share."""
    return recipe.model_dump(mode="json", exclude={"method", "seed"})


def _dense(recipe: Recipe, seed: int, cache: Path) -> Path:
    """The file of the trained network that all variants of this seed start from; trained if it is not there."""
    what = json.dumps([_common_part(recipe), seed], sort_keys=True)
    path = cache / f"{recipe.model.name}-{seed}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.safetensors"
    if not path.exists():
        print(f"training the dense network of seed {seed} ...", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        in_fresh_process(_train_dense, recipe, seed, path)
    return path


# One run


def _train_dense(recipe: Recipe, seed: int, path: Path) -> None:
    context = _context(recipe, Dense(), seed)
    Dense().run(context)
    state = {name: value.contiguous().cpu() for name, value in context.model.state_dict().items()}
    save_file(state, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def _context(recipe: Recipe, method: Method, seed: int) -> Context:
    torch.manual_seed(seed)
    data = load_data(**recipe.data.model_dump(), batch_size=recipe.train.batch_size, seed=seed, device=run_device())
    model = build_model(
        recipe.model.name, num_classes=data.classes, in_channels=data.shape[0], width=recipe.model.width
    ).to(run_device())
    return Context(model, data, recipe.train, Recorder(), seed=seed, trained=True)


def _run(recipe: Recipe, method: Stepwise, seed: int, dense: Path) -> dict[str, Any]:
    context = _context(recipe, method, seed)
    model, data, recorder = context.model, context.data, context.recorder
    model.load_state_dict(load_file(dense))
    macs = trace(model, context.example_inputs).macs()
    whole = build_model(
        recipe.model.name, num_classes=data.classes, in_channels=data.shape[0], width=recipe.model.width
    )
    whole.load_state_dict(load_file(dense))
    context.trainer()  # Accelerate sets itself up outside the time

    before = recorder.clock.seconds()
    outcome = None
    if method.tuning is not None:
        outcome = tune(method, context, method.tuning)
        method = outcome.method
    result = method.run(context)
    seconds = {stage: spent - before.get(stage, 0.0) for stage, spent in recorder.clock.seconds().items()}

    (removal,) = result.removals
    test = data.test.open()
    whole.to(run_device())
    latencies = _latencies([whole, model], data, recipe.train.channels_last)
    return {
        "seconds": {stage: spent for stage, spent in seconds.items() if spent > 0},
        "total": sum(seconds.values()),
        "details": dict(result.details),
        "tuned": None if outcome is None else outcome.method.model_dump(mode="json"),
        "validation": {
            "dense": removal.accuracy_before,
            "pruned": removal.accuracy_after,
            "end": result.validation_accuracy,
        },
        "test": {"dense": evaluate(whole, test), "end": evaluate(model, test)},
        "macs": {"dense": macs, "end": trace(model, context.example_inputs).macs()},
        "latency": latencies,
        "machine": machine(),
    }


def _latencies(networks: Sequence[torch.nn.Module], data: Data, channels_last: bool) -> dict[str, Any]:
    """Milliseconds, dense and pruned, by batch size."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    found = {}
    for network in networks:
        network.to(memory_format=layout)
    for size in _LATENCY_BATCHES:
        inputs = data.example().expand(size, -1, -1, -1).contiguous(memory_format=layout)
        found[str(size)] = [latency.median for latency in compare_latency(networks, inputs)]
    return found


# What is shown


def _one_line(record: Record) -> str:
    return (
        f"{record['variant']}, seed {record['seed']}: {record['total']:.1f} s, "
        f"{record['details']['fine-tunes of steps']} fine-tunes, test {record['test']['end']:.2f} % "
        f"(dense {record['test']['dense']:.2f} %), {record['macs']['end'] / record['macs']['dense']:.1%} of the MACs"
    )


def tables(records: Sequence[Record]) -> str:
    """A table for each setting: means over seeds, with deviations."""
    return "\n\n".join(_table(together) for together in by_setting(records, _TOGETHER))


def _table(records: Sequence[Record]) -> str:
    columns = (
        "variant",
        "seconds",
        "times as fast",
        "of it tuning",
        "steps",
        "fine-tunes",
        "split read",
        "validation after the steps",
        "test, dense",
        "test, end",
        "MACs",
        "latency, batch 64",
    )
    baseline = {record["seed"]: record["total"] for record in records if record["variant"] == "iterative"}
    rows = []
    for runs in by_setting(records, ["variant", "method"]):
        speedups = [baseline[run["seed"]] / run["total"] for run in runs if run["seed"] in baseline]
        rows.append(
            (
                runs[0]["variant"],
                mean_and_deviation([run["total"] for run in runs], ".1f"),
                mean_and_deviation(speedups),
                mean_and_deviation([run["seconds"].get("tuning", 0.0) for run in runs], ".1f"),
                runs[0]["details"]["steps"],
                mean_and_deviation([run["details"]["fine-tunes of steps"] for run in runs], ".1f"),
                _percent([run["details"]["share of the validation split read per decision"] for run in runs]),
                mean_and_deviation([run["validation"]["pruned"] for run in runs]),
                mean_and_deviation([run["test"]["dense"] for run in runs]),
                mean_and_deviation([run["test"]["end"] for run in runs]),
                _percent([run["macs"]["end"] / run["macs"]["dense"] for run in runs]),
                _percent([run["latency"]["64"][1] / run["latency"]["64"][0] for run in runs]),
            )
        )
    recipe = records[0]["recipe"]
    title = (
        f"{recipe['model']['name']}, width {recipe['model']['width']}, {recipe['data']['subset']:,} images of "
        f"{recipe['data']['name']}, seeds {sorted({record['seed'] for record in records})}"
    )
    return "\n\n".join([title, table(columns, rows), provenance(records)])


def _percent(shares: Sequence[float]) -> str:
    return f"{statistics.fmean(shares):.1%}"


if __name__ == "__main__":
    main()
