"""`detr predict`, as users meet it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from command import BCCD, only_error, run
from PIL import Image
from random_checkpoints import write_checkpoint

from detr.config import build, check, compose
from detr.errors import UserError
from detr.inference.sources import Stream, found_in
from detr.inference.video import opened, pyav


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "best.pt")


def predict(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "detr", "predict", *arguments, "device=cpu", cwd=folder)


def noise(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 90).convert("RGB").save(path)
    return path


def test_predictions_are_those_of_an_evaluation(checkpoint: Path, tmp_path: Path) -> None:
    """With a broken file among the images, which is named; the others are as if it were not there."""
    truth = json.loads((BCCD / "annotations" / "test.json").read_text())
    files = {image["file_name"].rpartition("/")[2]: image["id"] for image in truth["images"]}
    (tmp_path / "photos").mkdir()
    for name in files:
        (tmp_path / "photos" / name).symlink_to(BCCD / "images" / name)
    (tmp_path / "photos" / "BloodImage_00200x.jpg").write_bytes(b"\xff\xd8 half an image")
    evaluated = run(
        *("evaluate.py", f"checkpoint={checkpoint}", "split=test", f"hydra.run.dir={tmp_path}/evaluated"),
        "trainer.device=cpu",
    )
    assert evaluated.returncode == 0, evaluated.stderr
    done = predict(tmp_path, f"checkpoint={checkpoint}", "source=photos", "output=out", "threshold=0")
    assert done.returncode == 1, done.stderr
    assert "photos/BloodImage_00200x.jpg: not a readable image" in done.stdout + done.stderr
    assert not {"Traceback", "WARNING"} & {*(done.stdout + done.stderr).split()}

    expected, found = (_by_image(tmp_path / name / "predictions.json") for name in ("evaluated", "out"))
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert len(images) == len(files) == len(expected)
    for image in images:
        mine, theirs = found[image["id"]], expected[files[Path(image["file_name"]).name]]
        assert [each["category_id"] for each in mine] == [each["category_id"] for each in theirs]
        boxes = [np.array([each["bbox"] for each in some]) for some in (mine, theirs)]
        assert np.abs(boxes[0] - boxes[1]).max() < 1e-4
        assert np.abs(np.subtract(*([each["score"] for each in some] for some in (mine, theirs)))).max() < 1e-6
    assert len({path.name for path in (tmp_path / "out" / "pictures").iterdir()}) == len(files)


def _by_image(path: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for each in json.loads(path.read_text()):
        found.setdefault(each["image_id"], []).append(each)
    return found


def test_every_format_and_names_that_are_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    """Files of one name in two folders, in a folder whose name means something to Hydra."""
    place = "my photos (1), [new]"
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png"):
        noise(tmp_path / place / name)
    done = predict(
        tmp_path,
        *(f"checkpoint={checkpoint}", f"source={place}", "output=my results=", "format=coco,csv,yolo,voc"),
        *("threshold=0", "top_k=5", "classes=RBC,platelets"),
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "my results="
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["x.jpg", "x_2.jpg", "x_3.jpg"]
    results = json.loads((out / "predictions.json").read_text())
    rows = list(csv.DictReader(io.StringIO((out / "predictions.csv").read_text())))
    assert len(results) == len(rows) == 15
    assert {row["class"] for row in rows} <= {"RBC", "Platelets"}
    assert [float(row["score"]) for row in rows] == [each["score"] for each in results]
    assert [row["file"] for row in rows[::5]] == [f"{place}/{name}" for name in ("a/x.jpg", "b/x.jpg", "b/x.png")]
    for layout in ("yolo", "voc"):
        values, _ = check(compose([f"dataset={layout}", f'dataset.root="{out / layout}"', "dataset.val=null"]))
        data = build(values["dataset"]).read("train")
        assert len(data) == 3
        assert list(data.categories.values()) == ["RBC", "WBC", "Platelets"]
        inside = data.boxes[:, :2] + data.boxes[:, 2:]
        assert (data.boxes[:, :2] >= 0).all()
        assert (inside <= [64.01, 48.01]).all()
        assert 0 < len(data.boxes) <= 15


@pytest.mark.slow
def test_attention_is_drawn_beside(checkpoint: Path, tmp_path: Path) -> None:
    noise(tmp_path / "x.png")
    options = ["threshold=0", "top_k=3", "attention=all", "attention_point=20,30"]
    done = predict(tmp_path, f"checkpoint={checkpoint}", "source=x.png", "output=out", *options)
    assert done.returncode == 0, done.stderr
    sheet = Image.open(tmp_path / "out" / "attention" / "x.jpg")
    assert sheet.width > 2 * 448  # two layers
    assert sheet.height > 4 * 336  # three objects, and the encoder


RATE = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen frames, with one missing, so that they are not evenly spaced."""
    return write_video(tmp_path_factory.mktemp("videos") / "street.mkv", [*range(5), *range(6, 13)])


def write_video(path: Path, numbers: list[int]) -> Path:
    """Frames of odd size at these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 63, 47, "yuv444p"
        for number in numbers:
            frame = av.VideoFrame.from_image(Image.new("RGB", (63, 47), (20 * number, 90, 200)))
            frame.pts, frame.time_base = number, 1 / RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_the_frame_rate_stays(tmp_path: Path) -> None:
    given, made = write_video(tmp_path / "given.mkv", list(range(12))), tmp_path / "made.mp4"
    with opened(Stream(str(given))) as stream, made.open("wb") as target:
        stream.rewritten(target, lambda image: image)
    with av.open(str(made)) as container:
        assert abs(container.streams.video[0].average_rate - RATE) < 0.01  # Matroska rounds to milliseconds
        assert len(list(container.decode(video=0))) == 12


def test_a_video_comes_back_annotated_at_its_own_pace(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    done = predict(
        tmp_path,
        f"checkpoint={checkpoint}",
        f"source={video}",
        "output=out",
        "format=coco,csv",
        "threshold=0",
        "top_k=2",
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "out" / "street.mp4")) as made, av.open(str(video)) as given:
        frames, originals = (list(each.decode(video=0)) for each in (made, given))
    assert len(frames) == len(originals) == 12
    for frame, original in zip(frames, originals, strict=True):
        assert abs((frame.time - frames[0].time) - (original.time - originals[0].time)) < 2e-3
    assert frames[0].width % 2 == frames[0].height % 2 == 0
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["frame"] for image in images] == list(range(12))
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 24
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("images.json", "predict.log", "predictions.csv", "predictions.json", "run.json", "street.mp4")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["source=empty"], "empty: no image in this folder; images end in .jpg"),
        (["source=nowhere.jpg"], "nowhere.jpg: no such image, folder or video"),
        (["source=empty/*.jpg"], "empty/*.jpg: no image file is called so"),
        (["source=x.png", "checkpoint=nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["source=x.png", "checkpoint=half.pt"], "half.pt cannot be read as a checkpoint: truncated"),
        (["source=x.png", "threshold=1.5"], "threshold: expected at most 1.0, got 1.5"),
        (["source=x.png", "format=cocoo"], "format"),
        (["source=x.png", "classes=RBC,Platelet"], "classes: the detector knows no Platelet; did you mean Platelets?"),
        (["source=x.png", "attention_point=3,3"], "attention_point: is shown with attention only"),
        (["source=x.png", "treshold=0.3"], "did you mean threshold?"),
        (["source=x.png", "output=full"], "full: not empty"),
        (["source=text.mp4"], "text.mp4: the video cannot be read or written"),
        (["source=text.mp4", "format=yolo"], "format=yolo: is a data set of image files"),
        (["source=9"], "/dev/video9"),
        (["source=text.mp4", "attention=true"], "attention: is drawn for images"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str], words: str, checkpoint: Path, tmp_path: Path
) -> None:
    noise(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "predictions.json").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "half.pt").write_bytes(checkpoint.read_bytes()[:-1000])
    before = sorted(tmp_path.rglob("*"))
    given = arguments if any("checkpoint=" in each for each in arguments) else [f"checkpoint={checkpoint}", *arguments]
    line = only_error(predict(tmp_path, *given))
    assert words in line
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.name != "outputs"] in (
        [],
        [tmp_path / "outputs" / "predict"],
    )


def test_what_a_source_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [noise(tmp_path / name) for name in ("a/1.jpg", "a/b/2.PNG", "c.webp")]
    (tmp_path / "a" / "notes.txt").touch()
    assert found_in(str(tmp_path)) == files
    assert found_in(f"{tmp_path}/a/*") == files[:1]
    assert found_in(f"{tmp_path}/**/*.*") == files
    assert found_in(str(files[1])) == [files[1]]
    assert found_in("0") == Stream("0", webcam=True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{files[2]}\n\n {files[0]} \n{files[2]}\nmissing.jpg\n"))
    assert found_in("-") == [files[2], files[0], Path("missing.jpg")]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(UserError, match="stdin lists no file"):
        found_in("-")


def test_a_missing_library_and_a_sound_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match="no video in this file"), opened(Stream(str(sound))):
        pass
    monkeypatch.setattr("detr.inference.video.CODEC", "h999")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'detr-lab\[video\]'"):
        pyav()


def test_a_missing_codec_is_named(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detr.inference.video.CODEC", "h999")
    with pytest.raises(UserError, match="the video cannot be read or written"), opened(Stream(str(video))) as stream:
        stream.rewritten(io.BytesIO(), lambda image: image)
