"""The benchmarks: results outlive a crash, and tables say what was measured."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

_BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(_BENCH))

import _common  # noqa: E402
import _engines  # noqa: E402
import engine  # noqa: E402
import exports  # noqa: E402
import latency  # noqa: E402
import loop  # noqa: E402
import step_overhead  # noqa: E402
import tables  # noqa: E402

import icycle  # noqa: E402
import one_cycle  # noqa: E402
from icycle.compare import Kept, Result, keep_results  # noqa: E402

_MACHINE = {
    "cpu": "a CPU",
    "cores": "2",
    "threads": "2",
    "accelerator": "none",
    "icycle": "1",
    "torch": "2",
    "python": "3",
}


def test_results_are_found_by_their_values_and_the_last_one_counts(tmp_path: Path) -> None:
    results = _common.Results(tmp_path / "new" / "results.jsonl")
    assert results.read() == []
    assert results.find(seed=0) is None
    for value in (1, 2):
        results.append({"seed": 0, "settings": {"betas": (0.9, 0.999)}, "value": value})
    assert results.find(seed=0, settings={"betas": (0.9, 0.999)}) == results.read()[1]
    assert results.find(seed=1) is None


def test_mean_and_deviation() -> None:
    assert _common.mean_and_deviation([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert _common.mean_and_deviation([1.0]) == "1.00"
    assert _common.mean_and_deviation([]) == "-"


def test_table_is_markdown() -> None:
    lines = _common.table(("name", "x"), [("a", 1), ("b", 20)]).splitlines()
    assert lines == ["| name |   x |", "| ---- | --: |", "| a    |   1 |", "| b    |  20 |"]


def test_page_keeps_its_words_and_gets_its_tables(tmp_path: Path) -> None:
    page = "before\n<!-- table: compare_small -->\nold\n<!-- end -->\nafter\n"
    assert "Not measured yet" in tables.refresh(page, tmp_path)
    result = Result("dense", 0, 98.25, 98.0, 10.0, 0.0, 12.0, 1.0, 1.0, "accuracy", None)
    keep_results(tmp_path / "compare_small.json", Kept("icycle compare digits", "dense", ("a CPU",), (result,)))
    fresh = tables.refresh(page, tmp_path)
    assert fresh.startswith("before\n<!-- table: compare_small -->\n")
    assert fresh.endswith("\n<!-- end -->\nafter\n")
    assert "| dense |    1 |         98.25 |" in fresh
    assert tables.refresh(fresh, tmp_path) == fresh


def test_a_moment_is_chosen_by_the_other_seeds(tmp_path: Path) -> None:
    # each seed has a moment that is best by chance; the others' best is the other one
    early, late = (f"fixed:at={at}:shrink=8" for at in (0.1, 0.2))
    accuracies = {"one-cycle": (90.0, 90.0), early: (93.0, 88.0), late: (89.0, 91.0)}
    outcomes = tuple(
        Result(label, seed, accuracy, accuracy, 1.0, 0.0, 10.0, 0.5, 0.5, "accuracy", 2.0)
        for label, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    )
    keep_results(tmp_path / "compare_digits_10.json", Kept("icycle compare digits", "one-cycle", (), outcomes))
    row = one_cycle.TABLES["one_cycle_moments"](tmp_path).splitlines()[2]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2] == "20%"
    assert cells[5] == early
    assert cells[6].startswith("-0.50")  # 93 and 88 against 90 and 90
    assert cells[7].startswith("+1.50")  # by the other seed: 0.2 (89) for the first, 0.1 (88) for the second


def test_a_benchmark_without_records_names_its_command(tmp_path: Path) -> None:
    page = "<!-- table: loop -->\nold\n<!-- end -->\n"
    assert "Not measured yet: `python bench/loop.py`." in tables.refresh(page, tmp_path)


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_tables_in_the_repository_say_what_their_records_do(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.refresh(text, _BENCH / "results") == text


def test_no_record_names_a_path_of_the_machine_that_made_it() -> None:
    for file in (_BENCH / "results").iterdir():
        assert not re.search(r"(?<![\w.])/\w+/\w", file.read_text(encoding="utf-8")), file.name


def test_page_in_the_repository_has_a_place_for_every_table() -> None:
    page = (_BENCH.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert all(
        f"<!-- table: {name} -->" in page
        for name in ("pareto", "ice_parts", "engine", "step_overhead", "loop", "latency", "speed_up")
    )


def test_prunable_share_counts_products_with_a_prunable_dimension() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 5), torch.nn.Softmax(dim=1), torch.nn.Linear(5, 2)
    )
    structure = icycle.trace(model, torch.zeros(1, 4))
    assert _engines.prunable_share(structure) == pytest.approx((24 + 30) / (24 + 30 + 10))


def test_zoo_has_62_models() -> None:
    names = engine.zoo()
    assert len(names) == len(set(names)) == 62
    assert all(name.startswith(("torchvision/", "timm/")) for name in names)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("code", "limits", "status"),
    [
        ('print(\'built\\n{"status": "pruned"}\')', (30, 8), "pruned"),
        ("print('built', flush=True); import time; time.sleep(30)", (0.2, 8), "time limit"),
        (
            "print('built', flush=True); block = bytearray(300_000_000); import time; time.sleep(30)",
            (30, 0.2),
            "memory limit",
        ),
        ("print('built', flush=True); raise KeyError('x')", (30, 8), "crash"),
    ],
)
def test_a_process_is_held_to_its_limits(code: str, limits: tuple[float, float], status: str) -> None:
    seconds, gigabytes = limits
    assert engine.limited([sys.executable, "-c", code], seconds=seconds, gigabytes=gigabytes)["status"] == status


def test_a_process_that_does_not_start_is_no_result() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        engine.limited([sys.executable, "-c", "raise SystemExit('no such model')"], seconds=30, gigabytes=8)


def test_engine_table_says_what_came_of_every_model() -> None:
    common = {"trace_seconds": 0.1, "trace_megabytes": 5.0, "removal_seconds": 0.2, "removal_megabytes": 7.0}
    place = {"machine": _MACHINE, "command": "python bench/engine.py"}
    own = {"groups": 3, "prunable_share": 1.0, "macs_kept": 0.3, "removal_error": 2e-7, "cost_exact": True}
    zoo = engine.zoo()
    records: list[dict[str, Any]] = [
        {"model": zoo[0], "engine": "icycle", "status": "pruned", **common, **own, **place},
        {
            "model": "torchvision/alexnet",
            "engine": "torch-pruning",
            "status": "crash",
            "detail": "KeyError: 3",
            **place,
        },
        {"model": zoo[1], "engine": "torch-pruning", "status": "time limit", **place},
        {"model": "not in the list", "engine": "torch-pruning", "status": "crash", **place},
    ]
    text = engine.tables(records)
    assert "icycle: 1 of 1 models pruned and run" in text
    assert "torch-pruning: 0 of 2 models pruned and run (1 crash, 1 time limit)" in text
    assert "crash (KeyError)" in text
    assert "2.0e-07" in text


def test_loop_table_gives_the_share_of_the_hand_written_loop() -> None:
    place = {"machine": _MACHINE, "command": "python bench/x.py"}
    records = [
        {"kind": "loop", "arguments": [16], "plain": [100.0, 300.0, 200.0], "icycle": [190.0], **place},
        {"kind": "pipeline", "arguments": [], "icycle": [760.0], **place},
        {"kind": "files", "arguments": [2], "icycle": [50.0], "busy": [0.9, 0.97, 0.98], **place},
        {"kind": "reader", "arguments": ["CIFAR"], "seconds": {"icycle": [0.1], "torchvision": [0.3]}, **place},
    ]
    text = loop.tables(records)
    assert all(words in text for words in ("95.0%", "4.0 times", "97%", "0.10", "0.30"))
    alone = loop.tables(records[2:3])
    assert "cores busy" in alone and "ResNet-20, float32" not in alone


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="how busy the cores are is read from /proc")
def test_jpeg_files_are_read_and_the_cores_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_FILES", 80)
    found = loop._files(0)
    assert len(found["icycle"]) == len(found["busy"]) == loop._TURNS
    assert min(found["icycle"]) > 0
    assert all(0 <= share <= 1 for share in found["busy"])


def test_step_table_gives_the_share() -> None:
    step = {"steps": 10, "searches": 2, "step_ms": 100.0, "own_ms": 1.5, "shrink_ms": 0.5, "search_ms": 5.0}
    settings = {"width": 16, "batch": 128, "steps_per_epoch": 70}
    record = {"kind": "step", "settings": settings, **step, "machine": _MACHINE, "command": "python bench/x.py"}
    assert "1.50%" in step_overhead.tables([record])


def test_export_table_says_who_agrees_and_why_others_do_not() -> None:
    place = {"machine": _MACHINE | {"onnxruntime": "1"}, "command": "python bench/exports.py"}
    good = {"onnxruntime": {"difference": 3e-7}, "openvino": {"difference": 2e-3}, "pt2": {"difference": 0.0}}
    bad = {"onnxruntime": {"error": "Expected AlexNet to be exported"}, "openvino": {"error": "no file"}, "pt2": {}}
    records = [
        {"model": "torchvision/alexnet", "form": "dense", **good, **place},
        {"model": "torchvision/alexnet", "form": "pruned", **bad, **place},
        {"model": "timm/levit_128s", "form": "dense", "status": "time limit", **place},
        {"model": "not in the list", "form": "dense", **good, **place},
    ]
    text = exports.tables(records)
    assert "Of 2 models" in text
    assert "1 dense in onnxruntime, 0 dense in openvino, 1 dense in pt2, 0 pruned in onnxruntime" in text
    assert "- torchvision/alexnet, dense, openvino: differs by 2.0e-03" in text
    assert "- torchvision/alexnet, pruned, onnxruntime: Expected AlexNet to be exported" in text
    assert "- timm/levit_128s, dense, pt2: time limit" in text


def test_latency_table_has_what_was_asked_predicted_and_measured() -> None:
    case = {"network": "VGG-16", "target": "torch", "batch": 1, "fraction": 0.5, "random": 3, "threads": 2}
    facts = {"dense_ms": 10.0, "profile_seconds": 9.0, "random_errors": [0.02, -0.06, 0.01], "disturbed": 0.1}
    reached = {"reached": True, "kept_macs": 0.4, "again": 0.52, "attempts": [[0.4, 0.6], [0.49, 0.51]]}
    missed = {"reached": False, "error": "...", "attempts": [[0.7, 0.8]]}
    place = {"machine": _MACHINE, "command": "python bench/latency.py"}
    text = latency.tables([{**case, **facts, **reached, **place}, {**case, **facts, **missed, **place}])
    for cell in ("49.0%", "51.0%", "52.0%", "smallest 80.0%", "3.0%, 6.0%"):
        assert cell in text
