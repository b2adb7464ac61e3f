"""All figures of this checkout: ours against peers. `make bench`, `make bench-compare REV=…`.

python benchmarks/suite.py                     # minutes; writes docs/benchmarks.md and outputs/benchmarks/REVISION.json
python benchmarks/suite.py --only evaluation   # of one file; writes nothing
python benchmarks/suite.py --quick             # each figure small, to see that it works; writes nothing
python benchmarks/suite.py --compare HEAD~3    # what is faster or slower than in an earlier revision

An earlier revision is compared by the figures that it left in outputs/benchmarks. Where it left none, its code is taken
out of git, and this suite measures both in turns, file by file. Its figures are ratios to the same peers.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alternating import Comparison
from figure import Figure

from detr.environment import git_sha, hardware
from detr.files import write_atomically, write_json

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).parent
RESULTS = ROOT / "outputs" / "benchmarks"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
ROUNDS = 2  # in which two revisions are measured in turns


def files() -> list[str]:
    """Return the names of the files that offer figures."""
    return [path.stem for path in sorted(HERE.glob("*.py")) if re.search(r"^def figures\(", path.read_text(), re.M)]


def measured(names: Iterable[str], quick: bool) -> Iterator[Figure]:
    """Yield the figures of some files, and print each one. A file that fails leaves the others theirs."""
    for name in names:
        try:
            for figure in importlib.import_module(name).figures(quick=quick):
                print(figure, flush=True)
                yield figure
        except Exception:
            print(f"{name}.py could not be measured:", file=sys.stderr)
            traceback.print_exc()


def record(revision: str | None, figures: list[Figure]) -> dict[str, Any]:
    """Return what is kept of a revision."""
    return {
        "revision": revision,
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "figures": [asdict(figure) for figure in figures],
    }


def figures_in(path: Path) -> list[Figure]:
    """Return the figures of a revision that were kept."""
    kept = json.loads(path.read_text())["figures"]
    return [Figure(**{**each, "comparison": Comparison(**each["comparison"])}) for each in kept]


def document(kept: dict[str, Any], figures: list[Figure]) -> str:
    """Return docs/benchmarks.md."""
    machine = kept["hardware"]
    rows = []
    for figure in figures:
        found, target = figure.comparison, "" if figure.target is None else f"{figure.target:g}"
        ratio = f"**{found.ratio:.3f}**" if figure.reached else f"{found.ratio:.3f}"
        spread = f"{found.low:.3f} to {found.high:.3f}"
        rows.append(f"| {figure.name} | {ratio} | {spread} | {target} | {figure.mebibytes} | {figure.what} |")
    return f"""# Benchmarks

Written by `make bench`; do not edit. Each figure is ours against a peer, timed in turns, inference and training
steps in a process each, as users get them: the median of ours / theirs in seconds, so that less than 1 is faster, with
its smallest and largest turn. A ratio in bold reached its target, or has none. Memory is the peak of what each side
adds, in a process of its own. `make bench-compare REV=…` says what differs from an earlier revision by more than its
spread. Figures of a GPU are in [recipes.md](recipes.md#a-gpu), the cost of large runs in [scaling.md](scaling.md).

Measured on {kept["date"]}, revision {kept["revision"]}:
{machine["cpu"]}, {machine["cpu_cores"]} cores, {machine["memory_gb"]:g} GB, torch {machine["torch"]}.

| figure | ratio | spread | target | MiB, ours / theirs | what is compared |
|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def compared(here: list[Figure], there: list[Figure], revision: str) -> list[str]:
    """Return a line for each figure: how it differs from an earlier revision's, if by more than the spread."""
    earlier = {figure.name: figure.comparison for figure in there}
    lines = []
    for figure in here:
        now, before = figure.comparison, earlier.pop(figure.name, None)
        shown = f"{figure.name}: {spread(now)}"
        if before is None:
            lines.append(f"{shown}; {revision} has no such figure")
            continue
        change = f"{abs(now.ratio / before.ratio - 1):.0%}"
        verdict = "no difference beyond the spread"
        if now.high < before.low:
            verdict = f"faster by {change}"
        elif now.low > before.high:
            verdict = f"SLOWER by {change}"
        lines.append(f"{shown}, in {revision} {spread(before)}: {verdict}")
    return [*lines, *(f"{name}: only in {revision}, {spread(each)}" for name, each in earlier.items())]


def spread(found: Comparison) -> str:
    return f"{found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})"


def in_turns(revision: str, names: list[str], quick: bool) -> tuple[list[Figure], list[Figure]]:
    """Measure this checkout and an earlier revision, file by file in turns."""
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder) / "earlier"
        earlier.mkdir()
        packed = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x"], cwd=earlier, input=packed, check=True)
        found: tuple[list[Figure], list[Figure]] = ([], [])
        for turn in range(ROUNDS):
            for name in names:
                for side in (0, 1) if turn % 2 == 0 else (1, 0):
                    found[side].extend(in_process((ROOT, earlier)[side], name, quick, Path(folder) / "figures.json"))
    return merged(found[0]), merged(found[1])


def in_process(code: Path, name: str, quick: bool, path: Path) -> list[Figure]:
    """Return the figures that this suite's file finds with the package and the configs in another folder."""
    path.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "suite.py"), "--only", name, "--json", str(path)]
    command += ["--quick"] if quick else []
    paths = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    subprocess.run(command, cwd=code, env=os.environ | {"PYTHONPATH": paths}, check=False)
    return figures_in(path) if path.exists() else []


def merged(figures: list[Figure]) -> list[Figure]:
    """Return each figure once: medians, and the widest spread, of those with the same name."""
    by_name: dict[str, list[Figure]] = {}
    for figure in figures:
        by_name.setdefault(figure.name, []).append(figure)
    return [replace(group[-1], comparison=of_all([each.comparison for each in group])) for group in by_name.values()]


def of_all(found: list[Comparison]) -> Comparison:
    return Comparison(
        ours=statistics.median(each.ours for each in found),
        theirs=statistics.median(each.theirs for each in found),
        ratio=statistics.median(each.ratio for each in found),
        low=min(each.low for each in found),
        high=max(each.high for each in found),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=files(), default=[], help="files")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--compare", metavar="REVISION")
    given = parser.parse_args()
    names = given.only or files()
    if given.compare is not None:
        compare(given.compare, names, given.quick)
        return
    revision = git_sha(ROOT)  # before anything can change
    figures = list(measured(names, given.quick))
    kept = record(revision, figures)
    whole = not (given.quick or given.only)
    if given.json or whole:
        path = given.json or RESULTS / f"{kept['revision']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, kept, indent=2)
    if whole:
        write_atomically(DOCUMENT, document(kept, figures))
    raise SystemExit(not figures)


def compare(revision: str, names: list[str], quick: bool) -> None:
    """Print what differs from an earlier revision."""
    asked = ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    answer = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"error: {revision} is no revision of this repository; `git log --oneline` lists them")
    path = RESULTS / f"{answer.stdout.strip()}.json"
    if path.exists() and not quick:
        here, there = list(measured(names, quick)), figures_in(path)
        machines = hardware(), json.loads(path.read_text())["hardware"]
        if machines[0] != machines[1]:
            print(f"{revision} was measured on another machine, or with other versions: {machines[1]}")
    else:
        here, there = in_turns(revision, names, quick)
    print("\n".join(compared(here, there, revision)))


if __name__ == "__main__":
    main()
