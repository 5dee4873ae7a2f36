"""One cycle against dense training and against train-prune-fine-tune, at equal epochs, on Fashion-MNIST.

    python bench/one_cycle.py

Everything is that of the recipe `fashion` unless an option says otherwise: ResNet-20 of width 64, 10,000 training
images, 12 epochs, SGD with a cosine, bf16, channels-last, batch 128, half the MACs, widths rounded to 8. How
train-prune-fine-tune splits its epochs stands in bench/_incumbent.py.

The time of a run is its whole training: tracing, searches, removal, recalibration and the validation after every epoch
included, the import of the libraries, reading the data and the test at the end not. Every run has its own process.
"""

from __future__ import annotations

import argparse

from _common import RESULTS
from _training import METHODS, add_arguments, run_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, RESULTS / "one_cycle.jsonl", METHODS)
    print(run_all("fashion", parser.parse_args()))


if __name__ == "__main__":
    main()
