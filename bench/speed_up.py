"""What half of the MACs is in time: `python bench/speed_up.py` (resumable; run it on a quiet machine).

Networks of random weights lose half of their MACs, the same share of every group, and both are timed in turn, in
batches of 64 images. Nothing is known of the device here, unless a latency is asked for as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from _common import RESULTS, Record, Results, command, in_fresh_process, machine, provenance, table
from latency import NETWORKS

from icycle import Budget, select, trace
from icycle.latency import Latency

__all__ = ["tables"]

_NETWORKS = ("VGG-16", "ResNet-50 at 224")
_TARGETS = ("torch", "torch.compile", "onnxruntime")
_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(_NETWORKS))
    parser.add_argument("--targets", nargs="+", default=list(_TARGETS), metavar="TARGET")
    parser.add_argument("--kept", type=float, default=0.5, help="share of the MACs")
    parser.add_argument("--latency", type=float, help="a share of it to be met besides")
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 16], help="widths are multiples of it")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    results = Results(RESULTS / "speed_up.jsonl")
    for name in options.networks:
        for target in options.targets:
            for round_to in options.round_to:
                case = {"network": name, "target": target, "kept": options.kept, "round_to": round_to}
                case |= {"threads": options.threads, "latency": options.latency}
                if results.find(**case) is None:
                    found = in_fresh_process(_measured, *case.values())
                    place = machine() | {"threads": str(options.threads)}
                    results.append({**case, **found, "machine": place, "command": command()})
    print(tables(results.read()))


def _measured(name: str, target: str, kept: float, round_to: int, threads: int, share: float | None) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model, example = NETWORKS[name]()
    structure = trace(model.eval(), example)
    places = {group.name: torch.arange(group.size) / group.size for group in structure.prunable}
    budget = Budget(macs=kept) if share is None else Budget(macs=kept, latency=share, target=target, batch=_BATCH)
    subnet = select(structure, places, budget, model=model, round_to=round_to, cost_factor=False)
    latency = Latency(model, structure, Budget(latency=kept, target=target, batch=_BATCH))
    pruned = latency.measure(subnet)
    return {"macs": structure.macs(subnet) / structure.macs(), "dense_ms": latency.dense, "pruned_ms": pruned}


def tables(records: Sequence[Record]) -> str:
    """A row for each network, target and rounding, and where they come from."""
    columns = (
        "network",
        "target",
        "asked besides",
        "widths multiples of",
        "MACs",
        "dense, ms",
        "pruned, ms",
        "times as fast",
    )
    rows = [
        (
            record["network"],
            record["target"],
            f"{share:.0%} of the latency" if (share := record.get("latency")) else "nothing",
            record["round_to"],
            f"{record['macs']:.1%}",
            f"{record['dense_ms']:.1f}",
            f"{record['pruned_ms']:.1f}",
            f"{record['dense_ms'] / record['pruned_ms']:.2f}",
        )
        for record in records
    ]
    return f"{table(columns, rows)}\n\n{provenance(records)}"


if __name__ == "__main__":
    main()
