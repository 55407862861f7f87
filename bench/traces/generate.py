"""Writes generated traces as files, to look at: `python bench/traces/generate.py --set tuning --out out/traces`.

The simulator needs no files: `greenfleet simulate --set tuning` generates the same traces from their seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from greenfleet.simulator.generator import HOLDOUT_SEEDS, TUNING_SEEDS, document, generate

SETS = {"tuning": TUNING_SEEDS, "holdout": HOLDOUT_SEEDS}


def main() -> None:
    """Write one file for each seed of the set."""
    parser = argparse.ArgumentParser(description="Write generated traces as JSON files.")
    parser.add_argument("--set", choices=SETS, default="tuning", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out/traces"), help="directory (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in SETS[options.set]:
        trace = generate(seed)
        (options.out / f"{trace.name}.json").write_text(json.dumps(document(trace), indent=1) + "\n")
    print(f"{len(SETS[options.set])} traces in {options.out}")


if __name__ == "__main__":
    main()
