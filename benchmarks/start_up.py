"""What a user waits for before anything is computed: seconds of whole commands, median of several runs.

    python benchmarks/start_up.py [--runs 5] [--out benchmarks/start_up.md]

Run it from the repository's root in an idle machine. Drawing is timed on the demo's results, if they are there.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTHON = [sys.executable, "-m", "cm"]
DRAW = [*PYTHON, "draw", "--suite", "config/suites/demo.yaml", "--out", tempfile.mkdtemp(), "--artefact"]
COMMANDS = {
    "dry run of the demo": ["snakemake", "--dry-run", "--quiet", "all"],
    "cm prepare (digits)": [*PYTHON, "prepare", "--dataset", "digits", "--out", tempfile.mkdtemp()],
    "cm train, refused for a misspelt solver": [
        *PYTHON,
        *["train", "--run", "digits/cd/solver~x/seed0", "--data", "d", "--out", "o"],
    ],
    "cm draw table3 (no scores)": [*DRAW, "table3"],
    "cm draw table1": [*DRAW, "table1"],
    "cm draw fig3b": [*DRAW, "fig3b"],
    "cm draw ablation_solver (table and figure)": [*DRAW, "ablation_solver"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    """Wall-clock time of a whole process, its output thrown away."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    began = time.perf_counter()
    subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print or write a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["| command | median s | least s | most s |", "|---|---|---|---|"]
    for name, command in COMMANDS.items():
        seconds(command)
        times = [seconds(command) for _ in range(options.runs)]
        lines.append(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f} | {max(times):.2f} |")
    lines.append(
        f"\n{options.runs} runs after one warm-up, {os.cpu_count()} cores, Python {platform.python_version()}."
    )
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
