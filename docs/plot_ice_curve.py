"""Draws docs/ice-curve.svg: the learning rate of `icycle.methods.pruning_aware_rate`.

    python docs/plot_ice_curve.py

Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from icycle.methods import pruning_aware_rate

SHARES = [number / 400 for number in range(401)]
BASE, DELTA = 0.02, 0.01
CURVES = ((0.2, 40.0), (0.2, 5.0), (0.5, 40.0), (0.5, 5.0))


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "icycle", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
    for p, beta in CURVES:
        rates = [pruning_aware_rate(x, base=BASE, delta=DELTA, p=p, beta=beta) for x in SHARES]
        axes.plot(SHARES, rates, label=f"p = {p:g}, beta = {beta:g}", linewidth=1.4)
    axes.set(xlabel="x, the share of the weights that remains", ylabel="learning rate", ylim=(0, 1.1 * BASE))
    axes.axhline(BASE, color="grey", linewidth=0.5, linestyle=":")
    axes.axhline(BASE - DELTA, color="grey", linewidth=0.5, linestyle=":")
    axes.invert_xaxis()
    axes.legend(frameon=False)
    figure.savefig(Path(__file__).with_name("ice-curve.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
