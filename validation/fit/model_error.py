"""Errors of effects by field of the scenario: makes `desim/study/compare/model_error.yaml`.

python -m desim validate validation/step_time.csv --effects OUT.md --json effects.json
python validation/fit/model_error.py effects.json > desim/study/compare/model_error.yaml
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FEWEST = 4
DEFAULT = "default"
HEAD = """\
# How far desim's effects of policies lie from measured ones: the absolute difference of the two
# effects, in points (hundredths of the reference's step time). Keys are beginnings of scenario
# paths; the longest one that fits a path counts, `default` (all pairs) where none does. Where fewer
# than 4 pairs are known, the numbers are at least those of `default`.
# docs/studies/published-effects.md lists the pairs.
# Made by: python validation/fit/model_error.py effects.json
"""


def prefixes(paths: set[str]) -> list[str]:
    """Return every beginning of the paths that is no mere section of a scenario."""
    found = set(paths)
    for path in paths:
        parts = path.split(".")
        found |= {".".join(parts[:n]) for n in range(2, len(parts))}
    return sorted(found)


def error(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return median and 90th percentile of the absolute differences, in points."""
    sizes = [100 * abs(pair["simulated"] - pair["measured"]) for pair in pairs]
    return {
        "median_points": round(float(np.median(sizes)), 1),
        "p90_points": round(float(np.percentile(sizes, 90)), 1),
        "pairs": len(pairs),
        "source": sorted({pair["policy"].split("/")[0] for pair in pairs}),
    }


def table(pairs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the errors by beginning of a path, the default last."""
    default = error(pairs)
    found = {}
    for prefix in prefixes({pair["path"] for pair in pairs}):
        members = [p for p in pairs if f"{p['path']}.".startswith(f"{prefix}.")]
        found[prefix] = error(members)
        if len(members) < FEWEST:
            for key in ("median_points", "p90_points"):
                found[prefix][key] = max(found[prefix][key], default[key])
    return {**found, DEFAULT: default}


def main() -> None:
    """Print the table as YAML."""
    pairs = json.loads(Path(sys.argv[1]).read_text())["pairs"]
    print(HEAD, end="")
    for prefix, numbers in table(pairs).items():
        sources = ", ".join(numbers.pop("source"))
        inside = ", ".join(f"{key}: {value}" for key, value in numbers.items())
        print(f"{prefix}: {{{inside}, source: [{sources}]}}")


if __name__ == "__main__":
    main()
