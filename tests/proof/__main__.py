"""The whole proof as one command: `python -m tests.proof`, for longer with `--hours`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from .proved import Proved, prove_part

PARTS = ("simulation", "mutants", "fuzz", "processes", "projections", "power")  # the longest first


def main() -> int:
    """Run the parts side by side, print what was tried, and fail on anything wrong."""
    asked = _arguments()
    began = time.monotonic()
    proved: dict[str, list[Proved]] = {part: [] for part in asked.parts}
    with ProcessPoolExecutor(asked.jobs, max_tasks_per_child=1) as pool:
        rounds = dict.fromkeys(asked.parts, 0)
        running: dict[Future[tuple[Proved, float]], str] = {}

        def start(part: str) -> None:
            running[pool.submit(prove_part, part, asked.seed + rounds[part], asked.share)] = part
            rounds[part] += 1

        for part in asked.parts:
            start(part)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                part = running.pop(future)
                result, seconds = future.result()
                proved[part].append(result)
                _say(part, result, seconds)
                if not result.wrong and time.monotonic() - began + seconds < asked.hours * 3_600:
                    start(part)
    seconds = time.monotonic() - began
    _table(proved, seconds)
    if asked.json is not None:
        figures = {part: [one.figures for one in results] for part, results in proved.items()}
        asked.json.write_text(json.dumps({"seconds": round(seconds), "parts": figures}, indent=2) + "\n")
    return 1 if any(one.wrong for results in proved.values() for one in results) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=f"default: {' '.join(PARTS)}")
    parser.add_argument("--hours", type=float, default=0.0, help="go on with other seeds for so long")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--share", type=float, default=1.0, help="of what every push tries")
    parser.add_argument("--jobs", type=int, default=2, help="parts side by side")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: it is one of {', '.join(PARTS)}")
    return asked


def _say(part: str, result: Proved, seconds: float) -> None:
    print(f"{part}: {'WRONG' if result.wrong else 'nothing wrong'}, {seconds:.0f} s", flush=True)
    for sentence in result.wrong:
        print(f"  {sentence}", flush=True)


def _table(proved: dict[str, list[Proved]], seconds: float) -> None:
    for part, results in proved.items():
        print(f"\n{part}, {len(results)} {'round' if len(results) == 1 else 'rounds'}")
        total: Counter[str] = Counter()
        texts: dict[str, str] = {}
        for result in results:
            for name, figure in result.figures.items():
                if isinstance(figure, str):
                    texts[name] = figure
                else:
                    total[name] += figure  # type: ignore[assignment]
        for name, figure in total.items():
            print(f"  {figure:>14,.10g}  {name}")
        for name, text in texts.items():
            print(f"  {name}: {text}")
    wrong = sum(len(one.wrong) for results in proved.values() for one in results)
    print(f"\n{wrong or 'nothing'} wrong, {seconds:,.0f} s")


if __name__ == "__main__":
    sys.exit(main())
