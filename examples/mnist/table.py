"""Train the five configurations with every seed, print their table, and check what it must show.

    python examples/mnist/table.py [--folder PATH] [-o runs/mnist] [--seeds 0,1,2]

Stop it and start it again as you like: finished runs are kept, an unfinished one is taken up where it stands.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

from optical_dfa.config import load_config
from optical_dfa.training import Result, train
from optical_dfa.training.log import write_json

METHODS = {
    "bp": "backpropagation",
    "dfa": "exact DFA",
    "ternary": "ternarised DFA",
    "optical": "optical DFA, emulated",
    "shallow": "shallow control",
}


def train_all(out: Path, folder: str | None, seeds: list[int]) -> dict[str, list[Result]]:
    """Results of every configuration, one a seed."""
    results: dict[str, list[Result]] = {name: [] for name in METHODS}
    for name in METHODS:
        for seed in seeds:
            overrides = [f"training.seed={seed}", *([f"task.folder={json.dumps(folder)}"] if folder else [])]
            config = load_config(Path(__file__).with_name(f"{name}.yaml"), overrides)
            run_folder = out / f"{name}-{seed}"
            results[name].append(train(config, run_folder, resume=run_folder.exists()))
    return results


def accuracy(results: list[Result]) -> float:
    """Mean test accuracy, per cent."""
    return statistics.mean(100 * result.test_accuracy for result in results)


def table_row(name: str, results: list[Result]) -> str:
    spread = statistics.stdev(100 * result.test_accuracy for result in results) if len(results) > 1 else math.nan
    snr_db = [result.snr_db for result in results if result.snr_db is not None and math.isfinite(result.snr_db)]
    snr = f"{statistics.mean(snr_db):.1f}" if snr_db else "–"
    seconds = statistics.mean(result.seconds for result in results)
    return f"| {METHODS[name]} | {accuracy(results):.2f} ± {spread:.2f} | {snr} | {seconds:.0f} |"


def bars(results: dict[str, list[Result]]) -> dict[str, bool]:
    """What must hold, with the numbers, and whether it does."""
    mean = {name: accuracy(rows) for name, rows in results.items()}
    dfa_loss, optical_loss = mean["bp"] - mean["dfa"], mean["dfa"] - mean["optical"]
    margin = min(mean[name] for name in METHODS if name != "shallow") - mean["shallow"]
    snr_db = max(result.snr_db if result.snr_db is not None else math.inf for result in results["optical"])
    return {
        f"exact DFA at most 0.6 points below backpropagation: {dfa_loss:.2f}": dfa_loss <= 0.6,
        f"optical DFA at most 0.7 points below exact DFA: {optical_loss:.2f}": optical_loss <= 0.7,
        f"measured SNR at most 31 dB: {snr_db:.1f}": snr_db <= 31,
        f"all at least 3 points above the shallow control: {margin:.2f}": margin >= 3,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="folder of the four IDX files; default: scikit-learn downloads MNIST once")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/mnist"), help="folder of the runs")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the initial weights and the order of the data")
    options = parser.parse_args()
    results = train_all(options.out, options.folder, [int(seed) for seed in options.seeds.split(",")])
    checks = bars(results)
    print("\n| method | test accuracy, % | SNR, dB | training, s |\n|---|---:|---:|---:|")
    print("\n".join(table_row(name, rows) for name, rows in results.items()))
    print("\n" + "\n".join(f"{'pass  ' if held else 'MISSED'}  {text}" for text, held in checks.items()))
    runs = {name: [result.as_dict() for result in rows] for name, rows in results.items()}
    write_json(options.out / "table.json", {"runs": runs, "bars": checks})
    raise SystemExit(not all(checks.values()))
