"""Exported files: the model's answers from ONNX Runtime, OpenVINO and PyTorch alone."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from builders import CLASSES
from command import only_error, run
from PIL import Image
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same as timms

from detr.benchmarking.benchmark import Setting, benchmark
from detr.config.containers import Section
from detr.errors import UserError
from detr.exporting import export as exporting
from detr.exporting.export import export, export_in_8_bits
from detr.exporting.formats import SUFFIXES
from detr.exporting.program import CHOSEN, Outputs, Wish
from detr.exporting.quantization import SURE, calibrate, verify_detections
from detr.exporting.running import open_file
from detr.exporting.source import Source
from detr.exporting.symbolic import interpolate, pad_same, symbolic_sizes
from detr.exporting.verification import Differences, _cases, _matched, verify
from detr.models.anchor import AnchorDecoder
from detr.models.backbone import ResNet
from detr.models.box_coder import LogitBoxCoder
from detr.models.decoder import TransformerDecoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.folding import FoldedConvolution, FrozenBatchNorm
from detr.models.layers import LayerConfig
from detr.models.neck import Neck
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.queries import LearnedQueries
from detr.models.two_stage import TwoStageQueries
from detr.structures import Classes

SHRINK = {"_target_": "detr.data.transforms.ShrinkLongSide", "max_size": 128}


def tiny_source(seed: int = 0, *, proposals: bool = False) -> Source:
    """A detector on the first stage of the smallest backbone, with weights that say something."""
    torch.manual_seed(seed)
    layer = LayerConfig(d_model=32, num_heads=4, dim_feedforward=32)
    coder = LogitBoxCoder()
    anchored = AnchorDecoder(layer=layer, box_coder=coder, num_layers=1)
    model = DETR(
        backbone=ResNet(name="resnet18", weights=None, levels=("layer1",), trainable=()),
        neck=functools.partial(Neck, d_model=32, position_embedding=SinePositionEmbedding(d_model=32)),
        encoder=TransformerEncoder(layer=layer, num_layers=0),
        decoder=anchored if proposals else TransformerDecoder(layer=layer, num_layers=1),
        queries=functools.partial(
            TwoStageQueries if proposals else LearnedQueries, num_queries=12, d_model=32, box_coder=coder
        ),
        num_classes=CLASSES,
        d_model=32,
        classification="sigmoid",
    ).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    values: Any = {
        "augmentation": {"eval": Section(SHRINK)},
        "evaluator": {"detections_per_image": 15},
        "dataloader": {"batch_size": 2, "eval_batch_size": None},
        "trainer": {"precision": "fp32"},
    }
    return Source("tiny", model, Classes.contiguous({3: "a", 5: "b", 9: "c"}), values)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    written, differences = export(tiny_source(proposals=True), "onnx", Wish("detections"), str(path))
    assert written == path
    assert differences.within(Differences(0.01, 1e-5))
    assert differences.boxes > 0, "computed by others"
    return path


def test_an_onnx_file_says_what_it_takes_and_gives(onnx_file: Path) -> None:
    assert [path.name for path in onnx_file.parent.iterdir()] == ["tiny.onnx"]
    runner = open_file(onnx_file)
    assert runner.input_names == ["images", "padding", "original_sizes"]
    data = runner.metadata
    assert data["classes"] == {"names": ["a", "b", "c"], "category_ids": [3, 5, 9]}
    assert list(data["outputs"]) == runner.output_names == ["scores", "labels", "boxes"]
    assert data["preprocessing"]["resize"] == {"kind": "shrink long side", "max_size": 128, "by": "bilinear"}
    assert data["preprocessing"]["normalize"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    shapes = [each.shape for each in runner.session.get_inputs()]  # type: ignore[attr-defined]
    assert shapes == [["batch", 3, "height", "width"], ["batch", "height", "width"], ["batch", 2]]


def test_sizes_of_images_are_not_baked_in(onnx_file: Path) -> None:
    runner = open_file(onnx_file)
    for count, height, width in [(1, 40, 200), (5, 64, 64), (3, 97, 31)]:
        inputs = {
            "images": np.zeros((count, 3, height, width), np.uint8),
            "padding": np.zeros((count, height, width), bool),
            "original_sizes": np.full((count, 2), 100),
        }
        assert runner(inputs)["boxes"].shape == (count, 15, 4)
    small = {name: value[:, ..., :16, :16] if name != "original_sizes" else value for name, value in inputs.items()}
    assert runner(small)["boxes"].shape == (3, 15, 4), "fewer tokens than queries, but more pairs than detections"


def test_a_file_that_answers_otherwise_is_refused_and_leaves_nothing(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        exporting, "write", lambda traced, metadata, layout, path: path.write_bytes(onnx_file.read_bytes())
    )
    with pytest.raises(UserError, match="does not answer as the model"):
        export(tiny_source(1, proposals=True), "onnx", Wish("detections"), str(tmp_path / "other.onnx"))
    assert list(tmp_path.iterdir()) == []
    export(tiny_source(proposals=True), "onnx", Wish("detections"), str(tmp_path / "same.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["same.onnx"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("boxes", lambda boxes: boxes + 0.6),
        ("scores", lambda scores: scores - 2e-3),
        ("labels", lambda labels: (labels + 1) % CLASSES),
        ("boxes", lambda boxes: boxes * np.nan),
        (CHOSEN, lambda chosen: chosen[:, ::-1].copy()),
        (CHOSEN, lambda chosen: chosen * 0 + chosen[:, :1]),
    ],
)
def test_what_is_compared(onnx_file: Path, name: str, change: Any) -> None:
    runner = open_file(onnx_file, inside=CHOSEN)

    def changed(inputs: Any) -> Any:
        found = runner(inputs)
        return found | {name: change(found[name])}

    with pytest.raises(UserError, match="does not answer as the model"):
        verify(tiny_source(proposals=True), Wish("detections"), changed)  # type: ignore[arg-type]


def test_detections_are_matched_whatever_their_order() -> None:
    """Two of nearly equal scores in the other order are the same detections; one that is given twice is not."""
    scores, boxes = np.array([[0.9, 0.1], [0.9 - 1e-7, 0.2]]), np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    order = np.array([1, 0])
    queries, differences = _matched(scores, boxes, scores[order, 0], np.array([0, 0]), boxes[order])
    assert queries.tolist() == [1, 0]
    assert differences.within(Differences(1e-6, 1e-6))
    twice = np.array([0, 0])
    _, differences = _matched(scores, boxes, scores[twice, 0], np.array([0, 0]), boxes[twice])
    assert differences.boxes == 50


def test_three_shapes_and_two_batch_sizes_are_tried() -> None:
    cases = _cases(tiny_source())
    assert {len(sizes) for sizes in cases} == {1, 2}
    assert len({tuple(max(side) for side in zip(*sizes, strict=True)) for sizes in cases}) >= 3
    assert (96, 128) in [size for sizes in cases for size in sizes], "the size of a photo after preprocessing"


def test_files_are_measured_beside_the_model(onnx_file: Path) -> None:
    report = benchmark(
        tiny_source(proposals=True),
        [str(onnx_file)],
        torch.device("cpu"),
        Setting((64, 80), [1, 2], repeats=2, warmup=1),
    )
    rows = [(row["backend"], row["batch_size"]) for row in report["latency"]]
    assert rows == [("PyTorch", 1), ("tiny.onnx", 1), ("PyTorch", 2), ("tiny.onnx", 2)]
    alone = benchmark(None, [str(onnx_file)], torch.device("cpu"), Setting(repeats=1, warmup=0))
    assert alone["image"] == [480, 640]
    assert "parts" not in alone


@pytest.mark.slow
def test_openvino_answers_as_the_model(tmp_path: Path) -> None:
    path, differences = export(tiny_source(), "openvino", Wish("logits"), str(tmp_path / "tiny.xml"))
    assert differences.within(Differences(0.01, 1e-5))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tiny.bin", "tiny.xml"]
    runner = open_file(path)
    assert runner.metadata["classes"]["names"] == ["a", "b", "c"]
    assert list(runner.metadata["outputs"]) == ["logits", "boxes"]


@pytest.mark.slow
def test_torch_export_answers_as_the_model(tmp_path: Path) -> None:
    path, differences = export(tiny_source(), "torch_export", Wish("detections"), str(tmp_path / "tiny.pt2"))
    assert differences.within(Differences(0.01, 1e-5))
    assert open_file(path).metadata["classes"]["category_ids"] == [3, 5, 9]


@pytest.mark.parametrize("outputs", ["detections", pytest.param("logits", marks=pytest.mark.slow)])
def test_convolutions_in_8_bits_find_what_the_model_finds(outputs: Outputs, tmp_path: Path) -> None:
    source, other, images = tiny_source(), tiny_source(1), tmp_path / "images"
    for each in (source, other):
        torch.nn.init.constant_(each.model.class_head.bias, 0.5)  # sure of something
    images.mkdir()
    for number in range(6):
        Image.effect_noise((120 + number, 100), 80).convert("RGB").save(images / f"{number}.png")
    path, share = export_in_8_bits(source, Wish(outputs, "int8"), str(images), str(tmp_path / "tiny.onnx"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["images", "tiny.onnx"]
    assert share >= 0.9
    runner = open_file(path)
    assert (runner.metadata["precision"], runner.metadata["classes"]) == ("int8", source.classes.to_dict())
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("Conv") <= kinds.count("QuantizeLinear") < kinds.count("DequantizeLinear")
    calibration = calibrate(source, str(images))
    assert sum(int((each.scores >= SURE).sum()) for each in calibration.found) > 20, "else nothing was compared"
    with pytest.raises(UserError, match="in 8 bits the file finds"):
        verify_detections(source, Wish(outputs, "int8"), runner, calibrate(other, str(images)))


@pytest.mark.parametrize("side", range(8, 15))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (1, 2), (2, 2), (2, 3), (3, 1)])
def test_same_padding_is_timms(side: int, kernel: int, stride: int) -> None:
    x, weight = torch.randn(1, 2, side, side + 3), torch.randn(1, 2, kernel, kernel)
    ours, theirs = (
        torch.nn.functional.conv2d(pad(x, (kernel, kernel), (stride, stride)), weight, stride=stride)
        for pad in (pad_same, timms)
    )
    assert torch.equal(ours, theirs)


def test_folded_convolutions_are_traced_with_padding_whose_sizes_stay_simple() -> None:
    """In timm's form they grow with each stage, until a detector with such a backbone cannot be traced in an hour."""
    norm = FrozenBatchNorm(torch.nn.BatchNorm2d(4))
    network = torch.nn.Sequential(FoldedConvolution(Conv2dSame(3, 4, 3, stride=2, bias=False), norm), norm).eval()
    any_size = torch.export.Dim.DYNAMIC
    with symbolic_sizes():
        x = torch.randn(2, 3, 32, 64)
        program = torch.export.export(network, (x,), dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},))
    assert "index_select" in program.graph_module.code
    for height, width in ((32, 64), (33, 47)):
        x = torch.randn(1, 3, height, width)
        torch.testing.assert_close(program.module()(x), network(x))


def test_the_nearest_pixel_is_pytorchs() -> None:
    """Also where the exact place is an integer, which division and multiplication round differently."""
    for side in range(6, 200, 7):
        x = torch.arange(side, dtype=torch.float32).expand(1, 1, side, side)
        for target in range(3, 60):
            wanted = torch.nn.functional.interpolate(x, size=(target, side), mode="nearest")
            assert torch.equal(interpolate(x, size=(target, side), mode="nearest"), wanted)
            wanted = torch.nn.functional.interpolate(x, size=(side, target), mode="nearest")
            assert torch.equal(interpolate(x, size=(side, target), mode="nearest"), wanted)


@pytest.mark.parametrize(("layout", "library"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_missing_extra_is_named(layout: Any, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"{library} is not installed; pip install 'detr-lab\[export\]'"):
        export(tiny_source(), layout, Wish(), str(tmp_path / f"tiny{SUFFIXES[layout]}"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["format=onnx"], "checkpoint=PATH, or detector=NAME"),
        (["format=official", "experiment=quickstart"], "give checkpoint=PATH"),
        (["format=openvino", "experiment=quickstart", "output=file.onnx"], "ends in .xml"),
        (["format=onnx", "experiment=quikstart"], "quickstart"),
        (["format=onnx", "outputs=boxes", "checkpoint=best.pt"], "outputs"),
        (["format=onnx", "precision=int8", "experiment=quickstart"], "give calibration=FOLDER"),
        (["format=onnx", "calibration=photos", "experiment=quickstart"], "is for precision=int8"),
        (["format=openvino", "precision=int8", "calibration=photos", "experiment=quickstart"], "use format=onnx"),
        (["format=hugging_face", "precision=int8", "calibration=photos", "experiment=quickstart"], "use format=onnx"),
        (["format=onnx", "precision=int8", "calibration=photos", "experiment=quickstart"], "photos: no such image"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    assert message in only_error(run("-m", "detr", "export", *words, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []
