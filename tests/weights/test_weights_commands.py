"""Weights from elsewhere as a user meets them: evaluate.py, train.py and detr export on real files."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pickle
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import tiny_detr
from command import TINY, only_error, run
from official_layout import ARCHITECTURES, Architecture, write_official
from PIL import Image
from test_official import OFFICIAL, detector, load_into

from detr.assembly import eval_batch_size, warn_from_scratch
from detr.data.coco_categories import STUFF, THINGS
from detr.errors import UserError
from detr.models.detr import DETR
from detr.weights.sources import load
from detr.weights.zoo import download, fetch

SMALL = Architecture(width=32, heads=4, feed_forward=48, layers=2, queries=7)
SMALL_OVERRIDES = [
    "experiment=detr_r50_coco",
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=48",
    "transformer.encoder.num_layers=2",
    "transformer.decoder.num_layers=2",
    "queries.num_queries=7",
    "augmentation=none",
    "dataloader.num_workers=0",
]
OFFLINE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}  # nobody listens


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images in COCO's own layout, the validation split only."""
    root = tmp_path_factory.mktemp("coco")
    (root / "val2017").mkdir()
    (root / "annotations").mkdir()
    images, annotations = [], []
    for index, (width, height) in enumerate([(96, 64), (64, 96), (80, 80)], start=1):
        Image.effect_noise((width, height), 80).convert("RGB").save(root / "val2017" / f"{index}.jpg")
        images.append({"id": index, "file_name": f"{index}.jpg", "width": width, "height": height})
        box = {"bbox": [10, 10, 30, 40], "area": 1200, "iscrowd": 0}
        annotations.append({"id": index, "image_id": index, "category_id": (1, 18, 90)[index - 1]} | box)
    categories = [{"id": index, "name": name} for index, name in THINGS.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("weights") / "small.pth", SMALL)


def evaluate(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("evaluate.py", *overrides, f"hydra.run.dir={folder}", variables=environment)


def export(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "detr", "export", *arguments)


def one_line_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    line = only_error(done)
    for word in words:
        assert word in line


def test_an_official_file_is_evaluated_and_exported(small: Path, coco: Path, tmp_path: Path) -> None:
    common = [*SMALL_OVERRIDES, f"dataset.root={coco}"]
    done = evaluate(tmp_path / "first", f"checkpoint={small}", *common, **OFFLINE)
    assert done.returncode == 0, done.stderr
    predictions = json.loads((tmp_path / "first" / "predictions.json").read_text())
    assert len(predictions) == 3 * 7
    assert "AP" in json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert export(f"checkpoint={small}", "format=official", f"output={tmp_path}/again.pth").returncode == 0
    again = evaluate(tmp_path / "again", f"checkpoint={tmp_path}/again.pth", *common)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again" / "predictions.json").read_text()) == predictions


@pytest.mark.slow
def test_a_zoo_name_knows_its_experiment_and_dc5_its_batch_size(coco: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    write_official(cache / OFFICIAL["detr_r50_dc5"].file, ARCHITECTURES["detr_r50_dc5"])
    common = ["checkpoint=detr_r50_dc5", f"dataset.root={coco}", "augmentation=none", "dataloader.num_workers=0"]
    environment = {"TORCH_HOME": str(tmp_path), **OFFLINE}
    alone = evaluate(tmp_path / "alone", *common, **environment)
    assert alone.returncode == 0, alone.stderr
    together = evaluate(tmp_path / "together", *common, "dataloader.eval_batch_size=3", **environment)
    assert together.returncode == 0, together.stderr
    one, other = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("alone", "together"))
    assert len(one) == len(other) == 300
    assert one != other  # padding reaches the features at the border


@pytest.fixture
def panoptic(tmp_path: Path) -> Path:
    """Two images with a person before the sky, in COCO's own layout; the validation split only."""
    root = tmp_path / "panoptic"
    for folder in ("val2017", "annotations/panoptic_val2017"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for index in (1, 2):
        Image.effect_noise((64, 64), 80).convert("RGB").save(root / "val2017" / f"{index}.jpg")
        ids = Image.new("RGB", (64, 64), (9, 0, 0))
        ids.paste((7, 0, 0), (10, 10, 40, 50))
        ids.save(root / "annotations" / "panoptic_val2017" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.jpg", "width": 64, "height": 64})
        person = {"id": 7, "category_id": 1, "bbox": [10, 10, 30, 40], "area": 1200, "iscrowd": 0}
        sky = {"id": 9, "category_id": 187, "bbox": [0, 0, 64, 64], "area": 2896, "iscrowd": 0}
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": [person, sky]})
    categories = [{"id": index, "name": name, "isthing": int(index <= 90)} for index, name in (THINGS | STUFF).items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_an_official_panoptic_file_is_evaluated(panoptic: Path, tmp_path: Path) -> None:
    """Its 250 classes are known, so that nothing but the validation split is needed."""
    architecture = Architecture(width=64, feed_forward=48, layers=1, queries=7, classes=250, masks=True)
    path = write_official(tmp_path / "panoptic.pth", architecture)
    sizes = ["transformer.d_model=64", "transformer.dim_feedforward=48", "queries.num_queries=7"]
    layers = ["transformer.encoder.num_layers=1", "transformer.decoder.num_layers=1"]
    common = [
        f"checkpoint={path}",
        f"dataset.root={panoptic}",
        "dataset.val.instances=null",
        "dataloader.num_workers=0",
    ]
    done = evaluate(
        tmp_path / "run", "experiment=detr_r50_panoptic", *common, *sizes, *layers, "augmentation=none", **OFFLINE
    )
    assert done.returncode == 0, done.stderr
    assert "PQ" in (tmp_path / "run" / "metrics.json").read_text()
    assert len(json.loads((tmp_path / "run" / "panoptic.json").read_text())["annotations"]) == 2
    hint = evaluate(tmp_path / "hint", *common)
    one_line_error(hint, "experiment=detr_r50_panoptic or experiment=detr_r50_dc5_panoptic")


@pytest.mark.slow
def test_an_export_of_a_training_and_what_has_no_official_layout(tmp_path: Path) -> None:
    data = f"dataset.root={tmp_path}/shapes"
    overrides = [*TINY, *SMALL_OVERRIDES, "dataset=shapes", data, "backbone.weights=null", "trainer.max_steps=1"]
    done = run("train.py", *overrides, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    assert export(f"checkpoint={checkpoint}", "format=official").returncode == 0
    after = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    assert after == sorted([*before, "last_official.md", "last_official.pth"])
    content = torch.load(checkpoint.with_name("last_official.pth"), weights_only=True)
    assert content.keys() == {"model"}
    assert tuple(content["model"]["class_embed.weight"].shape) == (6, 32)
    init = f"init_from={checkpoint.with_name('last_official.pth')}"
    resumed = run("train.py", *overrides, f"resume={init.partition('=')[2]}", f"hydra.run.dir={tmp_path}/resumed")
    one_line_error(resumed, "no training state", init)
    fresh = run("train.py", *overrides, init, "position_embedding=learned", f"hydra.run.dir={tmp_path}/fresh")
    assert fresh.returncode == 0, fresh.stderr
    assert "weights loaded as they are" in fresh.stdout
    assert "initialized: neck.position_embedding (2 weights)" in fresh.stdout

    quickstart = [*TINY, data, "trainer.max_steps=1", f"hydra.run.dir={tmp_path}/quickstart"]
    assert run("train.py", *quickstart, "experiment=quickstart", "backbone.weights=null").returncode == 0
    refused = export(f"checkpoint={tmp_path}/quickstart/checkpoints/last.pt", "format=official")
    one_line_error(refused, "official layout", "last.pt")
    assert not (tmp_path / "quickstart" / "checkpoints" / "last_official.pth").exists()


@pytest.mark.slow
def test_fine_tuning_on_other_classes_from_official_weights(small: Path, tmp_path: Path) -> None:
    """The report names what is carried over, and the record of the run has it."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    Image.effect_noise((64, 64), 80).convert("RGB").save(root / "images" / "1.jpg")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 64}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "Dog"}, {"id": 40, "name": "helmet"}, {"id": 3, "name": "person"}],
    }
    for split in ("train", "val"):
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    overrides = ["experiment=finetune_custom", f"dataset.root={root}", f"init_from={small}", *SMALL_OVERRIDES[1:]]
    done = run(
        "train.py",
        *overrides,
        "trainer.max_steps=1",
        "logger=none",
        "queries.num_queries=5",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "adapted: class_head: rows of 2 of 3 classes by name (person, Dog)",
        "adapted: class_head: the row of no-object",
        "adapted: queries.embedding.weight: the first 5 of 7 rows",
        "initialized: class_head: rows of 1 of 3 classes (helmet)",
    ):
        assert line in done.stdout


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_malicious_file_is_refused_and_does_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save({"model": {}, "args": Trap(trap)}, tmp_path / "new.pth")
    torch.save({"model": {}, "args": Trap(trap)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(trap), protocol=2))
    for name in ("new", "old", "plain"):
        with pytest.raises(UserError, match=rf"{name}\.pth was not read: .*mkdir.*may run code"):
            load(str(tmp_path / f"{name}.pth"))
        assert not trap.exists()
    one_line_error(evaluate(tmp_path / "run", f"checkpoint={tmp_path}/old.pth"), "may run code", "mkdir")
    assert not trap.exists()
    torch.load(tmp_path / "new.pth", weights_only=False)
    assert trap.exists()  # it would have


@pytest.fixture(scope="module")
def bad(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are no good."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "truncated.pth").write_bytes(small.read_bytes()[:100_000])
    (folder / "text.pth").write_text("hello")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"state": {"x": torch.zeros(1)}}, folder / "foreign.pth")
    (folder / "empty").mkdir()
    content = torch.load(small, weights_only=True)
    content["model"]["class_embed.bias"][0] = torch.nan
    torch.save(content, folder / "nan.pth")
    del content["model"]["class_embed.bias"]
    torch.save(content, folder / "missing.pth")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truncated.pth", ["truncated"]),
        ("text.pth", ["cannot be read"]),
        ("list.pth", ["list"]),
        ("foreign.pth", ["neither", "class_embed"]),
        ("empty", ["config.json"]),
        ("nan.pth", ["class_embed.bias", "not finite"]),
        ("missing.pth", ["1 missing (class_embed.bias)"]),
        ("nowhere.pth", ["no checkpoint"]),
    ],
)
def test_what_bad_files_get(name: str, words: list[str], bad: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_into(detector("detr_r50_coco", 91, *SMALL_OVERRIDES[1:]), bad / name)
    for word in [*words, name]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("BAD/truncated.pth", ["truncated.pth", "truncated"]),
        ("BAD/nan.pth", ["nan.pth", "class_embed.bias", "not finite"]),
        ("null", ["an https address", "got nothing"]),
        ("", ["an https address", "got nothing"]),
        ("detr_r50_dc", ["did you mean detr_r50_dc5?"]),
        ("detr_r101", ["dl.fbaipublicfiles.com/detr/detr-r101-2c7b67e5.pth", "give its path"]),
    ],
)
def test_what_bad_checkpoints_get(checkpoint: str, words: list[str], bad: Path, coco: Path, tmp_path: Path) -> None:
    source = checkpoint.replace("BAD", str(bad))
    overrides = [f"checkpoint={source}", *SMALL_OVERRIDES, f"dataset.root={coco}"]
    one_line_error(evaluate(tmp_path, *overrides, TORCH_HOME=str(tmp_path), **OFFLINE), *words)


def test_what_is_missing_is_told(small: Path, coco: Path, tmp_path: Path) -> None:
    data = f"dataset.root={coco}"
    done = evaluate(tmp_path / "a", f"checkpoint={small}", data)
    one_line_error(done, "experiment=detr_r50_coco or experiment=detr_r50_dc5_coco", str(small))
    other = [each for each in SMALL_OVERRIDES if "decoder.num_layers" not in each]
    done = evaluate(tmp_path / "b", f"checkpoint={small}", data, *other)
    one_line_error(done, "transformer.decoder.num_layers is 2 in it and 6 here", "missing", str(small))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", folder
        served.shutdown()


def test_weights_from_an_address(
    small: Path, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    address, folder = server
    (folder / "one").mkdir()
    (folder / "one" / "best.pt").write_bytes(small.read_bytes())
    first = load(f"{address}/one/best.pt")
    assert first.num_logits == 92
    (folder / "other").mkdir()
    (folder / "other" / "best.pt").write_bytes(b"another run's")
    assert fetch(f"{address}/other/best.pt").read_bytes() == b"another run's"
    (folder / "one" / "best.pt").unlink()
    assert load(f"{address}/one/best.pt").num_logits == 92  # from the cache
    with pytest.raises(UserError, match=r"two/best\.pt could not be downloaded .*404"):
        load(f"{address}/two/best.pt")
    (folder / "damaged.pth").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged during the download"):
        download(f"{address}/damaged.pth", tmp_path / "damaged.pth", "e632da11")
    assert not (tmp_path / "damaged.pth").exists()


def dc5(dilation: bool) -> DETR:
    return detector("detr_r50_coco", 91, f"backbone.dilation={str(dilation).lower()}", *SMALL_OVERRIDES[1:])


@pytest.mark.parametrize(
    ("dilation", "given", "expected"), [(False, None, 4), (True, None, 1), (True, 3, 3), (False, 3, 3)]
)
def test_batches_of_an_evaluation(
    dilation: bool, given: int | None, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert eval_batch_size({"batch_size": 4, "eval_batch_size": given}, dc5(dilation)) == expected
    assert ("one image at a time" in caplog.text) == (expected == 1)


@pytest.mark.parametrize(
    ("queries", "images", "warned"), [("learned", 200, True), ("learned", 20_000, False), ("two_stage", 200, False)]
)
def test_training_queries_without_anchors_on_few_images_is_warned_of(
    queries, images: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_from_scratch(tiny_detr(queries=queries), images)
    assert ("experiment=small_data" in caplog.text) == warned
