"""`detr benchmark`: counts against formulas, times against calls whose time is known."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from builders import CLASSES, tiny_detr
from command import only_error, run

from detr.benchmarking.benchmark import Setting, benchmark
from detr.benchmarking.parts import POSTPROCESSING, REST, profile
from detr.benchmarking.timing import in_turns, p90
from detr.environment import keep_freed_memory
from detr.exporting.source import Source
from detr.structures import Classes

CPU = torch.device("cpu")


def source() -> Source:
    return Source("tiny", tiny_detr(), Classes.contiguous({1: "a", 2: "b", 3: "c"}), {"evaluator": {}})  # type: ignore[arg-type]


def test_counts_are_those_of_formulas() -> None:
    found = source()
    report = benchmark(found, [], CPU, Setting(size=(64, 96), batch_sizes=[1, 3], repeats=2, warmup=0))
    every = list(found.model.parameters())
    assert report["parameters"] == {
        "all": sum(each.numel() for each in every),
        "trainable": sum(each.numel() for each in every if each.requires_grad),
    }
    assert report["parameters"]["trainable"] < report["parameters"]["all"], "the stem is frozen"
    layers, queries, width = 2, 7, 32
    heads = 2 * layers * queries * (width * (CLASSES + 1) + 2 * width * width + width * 4)
    assert report["flops"]["parts"]["heads"] == heads
    assert report["flops"]["parts"]["neck"] == 2 * (64 // 32 * 96 // 32) * 512 * width
    assert report["flops"]["total"] == sum(report["flops"]["parts"].values())
    assert [(row["backend"], row["batch_size"]) for row in report["latency"]] == [("PyTorch", 1), ("PyTorch", 3)]
    for row in report["latency"]:
        assert 0 < row["median"] <= row["p90"]
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["median"])
    names = [row["part"] for row in report["parts"]]
    assert names == ["backbone", "neck", "encoder", "queries", "decoder", "heads", POSTPROCESSING, REST]
    assert sum(row["share"] for row in report["parts"]) == pytest.approx(1)
    assert sum(row["parameters"] for row in report["parts"]) == report["parameters"]["all"]
    json.dumps(report, allow_nan=False)


def test_time_is_given_to_the_part_that_takes_it() -> None:
    """A box head that sleeps is called inside of the decoder, whose time stands still meanwhile."""
    model = tiny_detr()
    images, padding = torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool)
    hooks = [
        model.box_head.register_forward_pre_hook(lambda *_: None),
        model.box_head.layers[0].register_forward_hook(lambda *_: time.sleep(0.05)),  # type: ignore[union-attr,index]
    ]
    seconds = profile(model, lambda: model(images, padding), lambda _: time.sleep(0.1), CPU, repeats=3)
    assert 0.05 <= seconds["heads"] < 0.08
    assert 0.1 <= seconds[POSTPROCESSING] < 0.13
    assert seconds["decoder"] < 0.05
    for hook in hooks:
        hook.remove()
    model.backbone.eval()
    assert not model.box_head._forward_pre_hooks, "the clock's hooks are gone, too"


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls = {
        name: lambda name=name: (order.append(name), time.sleep(0.01 if name == "slow" else 0))
        for name in ("fast", "slow")
    }
    timings = in_turns(calls, CPU, repeats=3, warmup=2)  # type: ignore[arg-type]
    assert order == ["fast"] * 3 + ["slow"] * 3 + ["fast", "slow"] * 3
    assert timings["slow"].median >= 0.01 > timings["fast"].median


def test_the_ninetieth_percentile() -> None:
    assert p90([float(each) for each in range(1, 11)]) == 9
    assert p90([float(each) for each in range(1, 21)]) == 18
    assert p90([3.0]) == 3
    assert p90([2.0, 1.0]) == 2


def test_memory_of_a_call_is_its_own() -> None:
    keep_freed_memory()  # as the command does
    torch.ones(64, 2**20)
    kept: list[torch.Tensor] = []
    calls = {"large": lambda: torch.ones(64, 2**20).sum(), "small": lambda: kept.clear()}
    timings = in_turns(calls, CPU, repeats=1, warmup=1)
    if timings["large"].memory is None:
        pytest.skip("this machine does not tell")
    assert 200 * 2**20 < timings["large"].memory < 400 * 2**20
    assert timings["small"].memory is not None
    assert timings["small"].memory < 50 * 2**20


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    small = ["experiment=quickstart", "transformer.d_model=32", "transformer.num_heads=4", "size=[64,64]", "repeats=1"]
    done = run("-m", "detr", "benchmark", *small, "--json", "numbers of it.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "GFLOPs" in done.stdout
    assert "backbone" in done.stdout
    report = json.loads((tmp_path / "numbers of it.json").read_text())
    assert report["image"] == [64, 64]
    assert [path.name for path in tmp_path.iterdir()] == ["numbers of it.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "experiment=NAME"),
        (["file=gone.onnx"], "no file at gone.onnx"),
        (["experiment=quickstart", "device=gpu"], "is not a known device"),
        (["experiment=quickstart", "size=[64]"], "size"),
        (["experiment=quickstart", "repeats=0"], "repeats"),
        (["experiment=quickstart", "--json"], "--json FILE"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    assert message in only_error(run("-m", "detr", "benchmark", *words, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []
