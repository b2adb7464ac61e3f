"""Measure a detector: parameters, operations, time by batch size and by part, memory; exported files beside it.

detr benchmark checkpoint=outputs/train/DATE/checkpoints/best.pt
detr benchmark detector=rt_detr_r50 size=[640,640] batch_sizes=[1,4] threads=2         # random weights
detr benchmark checkpoint=best.pt file=[best.onnx,best.xml]        # side by side, in turns
detr benchmark file=best.onnx device=cuda --json numbers.json      # for other programs: seconds and bytes

Arguments are KEY=VALUE:

  checkpoint=PATH     a checkpoint, an https address, or the name of published weights
  detector=NAME       instead of a checkpoint: with random weights; or experiment=NAME
  file=FILE           what `detr export` wrote, or a list of such files
  size=[H,W]          of the images, in pixels; by default of a photo of 480 × 640 after preprocessing
  batch_sizes=[1]     each is measured
  device=auto         auto | cpu | cuda | cuda:1 | mps
  repeats=20          calls whose time is taken, after warmup=3 others
  threads=N           that the libraries compute with
  json=FILE           the numbers; the same as --json FILE
  any key of the training, as for evaluate.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from detr.config import Config
from detr.entry import entry_point, user_errors
from detr.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line says."""
    with user_errors():
        given = list(_json_as_key(sys.argv[1:] if arguments is None else arguments))
    benchmark(given)


@entry_point("benchmark", deferred=True)
def benchmark(config: Config) -> None:
    # Here: torch takes seconds, which --help and a typo need not wait for.
    from detr.benchmarking.benchmark import Setting
    from detr.benchmarking.benchmark import benchmark as measure
    from detr.benchmarking.table import show
    from detr.environment import resolve_device
    from detr.exporting.source import find
    from detr.files import write_json
    from detr.tracking.console import Terminal

    values = config.values
    files = [values["file"]] if isinstance(values["file"], str) else values["file"]
    alone = bool(files) and values["checkpoint"] is None and not config.aside
    source = None if alone else find(values["checkpoint"], config.aside, config.folders)
    setting = Setting(
        size=None if values["size"] is None else tuple(values["size"]),
        **{name: values[name] for name in ("batch_sizes", "repeats", "warmup", "threads")},
    )
    report = measure(source, files, resolve_device(values["device"]), setting)
    show(report, Terminal())
    if values["json"] is not None:
        write_json(values["json"], report, indent=2)


def _json_as_key(words: Sequence[str]) -> Iterator[str]:
    """The command line with json=FILE for `--json FILE`: Hydra knows no flags but its own."""
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag != "--json":
            yield word
            continue
        value = value if equals else next(rest, "")
        if not value or value.startswith("-") or (not equals and "=" in value):
            raise UserError("--json: expected a file; write --json FILE")
        yield "json='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
