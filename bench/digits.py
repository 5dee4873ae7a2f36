"""The recipe `digits`, which the README runs, against dense training at equal epochs.

    python bench/digits.py

Timed as in bench/one_cycle.py.
"""

from __future__ import annotations

import argparse

from _common import RESULTS
from _training import add_arguments, run_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, RESULTS / "digits.jsonl", ("dense", "one-cycle"))
    print(run_all("digits", parser.parse_args()))


if __name__ == "__main__":
    main()
