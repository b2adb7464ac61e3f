"""Panoptic quality against torchmetrics, panopticapi's rules written out again, and numbers worked out by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hotcoco.panoptic import pq_compute
from PIL import Image
from torchmetrics.detection import PanopticQuality as TorchmetricsQuality

from detr.data.panoptic.segment_ids import from_rgb, save_segment_ids
from detr.evaluation.panoptic_quality import PanopticQuality
from detr.structures import Classes, PanopticSegments

HEIGHT, WIDTH = 24, 32
CATEGORIES = {3: ("cat", 1), 10: ("dog", 1), 11: ("sky", 0), 200: ("road", 0), 7: ("unseen", 1)}
CLASSES = Classes(tuple(name for name, _ in CATEGORIES.values()), tuple(CATEGORIES))
LABEL = {category: index for index, category in enumerate(CATEGORIES)}

Segments = list[tuple[int, np.ndarray]]  # category and mask of each; later ones lie on top
GroundTruth = list[tuple[int, np.ndarray, int]]  # and iscrowd


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def painted(masks: list[np.ndarray]) -> np.ndarray:
    """[H, W] the topmost mask's number from 1, 0 where there is none."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return ids


class Case:
    """Ground truth and predictions of some images, as files and through our evaluator."""

    def __init__(self, folder: Path, truth: list[GroundTruth], predicted: list[Segments]) -> None:
        self.truth_ids = [painted([mask for _, mask, _ in segments]) for segments in truth]
        self.predicted_ids = [painted([mask for _, mask in segments]) for segments in predicted]
        (folder / "truth").mkdir(parents=True)
        for number, ids in enumerate(self.truth_ids):
            save_segment_ids(ids * 1000, folder / "truth" / f"{number}.png")
        self.ground_truth: dict[str, Any] = {
            "images": [
                {"id": 5 + n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(len(truth))
            ],
            "annotations": [
                {
                    "image_id": 5 + number,
                    "file_name": str(folder / "truth" / f"{number}.png"),
                    "segments_info": [
                        {"id": 1000 * each, "category_id": category, "area": int((ids == each).sum()), "iscrowd": crowd}
                        for each, (category, _, crowd) in enumerate(segments, start=1)
                        if (ids == each).any()
                    ],
                }
                for number, (segments, ids) in enumerate(zip(truth, self.truth_ids, strict=True))
            ],
            "categories": [
                {"id": category, "name": name, "isthing": isthing} for category, (name, isthing) in CATEGORIES.items()
            ],
        }
        self.found = [segments_of(segments) for segments in predicted]
        self.evaluator = PanopticQuality(ground_truth=self.ground_truth, classes=CLASSES)
        self.evaluator.update([5 + number for number in range(len(truth))], self.found)
        self.result = self.evaluator.compute()


def segments_of(segments: Segments) -> PanopticSegments:
    """As post-processing gives them: numbered without gaps."""
    ids = painted([mask for _, mask in segments])
    visible = [number for number in range(1, len(segments) + 1) if (ids == number).any()]
    compact = np.zeros(len(segments) + 1, dtype=np.int32)
    compact[visible] = np.arange(1, len(visible) + 1)
    labels = torch.tensor([LABEL[segments[number - 1][0]] for number in visible], dtype=torch.int64)
    return PanopticSegments(torch.from_numpy(compact[ids]), labels, torch.ones(len(labels)))


def random_scene(rng: np.random.Generator, *, void: bool) -> Segments:
    """Stuff in stripes (each class once), rectangles of things on it, maybe holes of void."""
    border = int(rng.integers(4, HEIGHT - 4))
    scene: Segments = [(11, rectangle(0, border, 0, WIDTH)), (200, rectangle(border, HEIGHT, 0, WIDTH))]
    scene = scene[: 2 if rng.random() < 0.8 else 1]
    if void and rng.random() < 0.7:
        scene = [(category, mask & ~rectangle(0, HEIGHT, 0, int(rng.integers(1, 12)))) for category, mask in scene]
    for _ in range(int(rng.integers(0, 6))):
        top, left = rng.integers(0, HEIGHT - 6), rng.integers(0, WIDTH - 6)
        mask = rectangle(top, top + rng.integers(3, 12), left, left + rng.integers(3, 14))
        scene.append((int(rng.choice([3, 10])), mask))
    return scene


def disturbed(rng: np.random.Generator, scene: Segments) -> Segments:
    """A prediction: shifted, sometimes of another class, missing, or of more void."""
    changed = []
    for category, mask in scene:
        if category in (3, 10):
            if rng.random() < 0.15:
                continue
            mask = np.roll(mask, rng.integers(-2, 3, 2), (0, 1))
            category = int(rng.choice([3, 10])) if rng.random() < 0.15 else category
        elif rng.random() < 0.3:
            mask = mask & ~rectangle(0, HEIGHT, WIDTH - 5, WIDTH)
        changed.append((category, mask))
    return changed


def without_void(scene: Segments) -> Segments:
    """The same with the road as the ground of everything, as a network that answers for every pixel."""
    return [(200, rectangle(0, HEIGHT, 0, WIDTH)), *(segment for segment in scene if segment[0] != 200)]


def torchmetrics_values(case: Case, truth: list[GroundTruth], predicted: list[Segments]) -> np.ndarray:
    """[1, classes, 3] PQ, SQ and RQ of each class: things in ascending order, then stuff."""
    metric = TorchmetricsQuality(
        things={3, 7, 10},
        stuffs={11, 200},
        allow_unknown_preds_category=True,
        return_sq_and_rq=True,
        return_per_class=True,
    )

    def coloured(ids: np.ndarray, segments: list[Any]) -> torch.Tensor:
        category = np.array([999, *(segment[0] for segment in segments)])[ids]
        return torch.from_numpy(np.stack([category, ids], axis=-1))

    metric.update(
        torch.stack([coloured(ids, each) for ids, each in zip(case.predicted_ids, predicted, strict=True)]),
        torch.stack([coloured(ids, each) for ids, each in zip(case.truth_ids, truth, strict=True)]),
    )
    return metric.compute().numpy()


@pytest.mark.parametrize("seed", range(60))
def test_equals_torchmetrics(seed, tmp_path):
    """With void in the ground truth. torchmetrics knows no crowds, and takes no notice where a prediction is void,
    while COCO counts that as missed: those are compared below. DETR's predictions are void wholly or not at all."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, void=seed % 2 == 1) for _ in range(4)]
    truth = [[(category, mask, 0) for category, mask in scene] for scene in scenes]
    predicted = [without_void(disturbed(rng, scene)) for scene in scenes]
    case = Case(tmp_path, truth, predicted)
    values = torchmetrics_values(case, truth, predicted)
    quality = dict(zip([3, 7, 10, 11, 200], values.reshape(-1, 3), strict=True))
    occurring = {category for scene in truth + predicted for category, *_ in scene}
    for suffix, chosen in {"": occurring, "_things": occurring & {3, 10}, "_stuff": occurring & {11, 200}}.items():
        expected = np.mean([quality[category] for category in chosen], axis=0) * 100 if chosen else [-1] * 3
        found = [case.result.metrics[f"{name}{suffix}"] for name in ("PQ", "SQ", "RQ")]
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=suffix)
    for category, (name, _) in CATEGORIES.items():
        expected = 100 * quality[category][0] if category in occurring else -1
        assert case.result.per_class[name] == pytest.approx(expected, rel=1e-6)


def written_out(case: Case, truth: list[GroundTruth], predicted: list[Segments]) -> dict[int, tuple[float, ...]]:
    """Category → IoU sum, TP, FP, FN, by the definition (Kirillov et al., section 4.1) and COCO's rules for crowds."""
    total: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(4))
    for true_ids, true, found_ids, found in zip(case.truth_ids, truth, case.predicted_ids, predicted, strict=True):
        void = true_ids == 0
        matched_true, matched_found = set(), set()
        for i, (true_category, _, crowd) in enumerate(true, 1):
            for j, (found_category, _) in enumerate(found, 1):
                a, b = true_ids == i, found_ids == j
                union = (a | (b & ~void)).sum()
                if not crowd and true_category == found_category and union and (a & b).sum() / union > 0.5:
                    total[true_category] += [(a & b).sum() / union, 1, 0, 0]
                    matched_true.add(i)
                    matched_found.add(j)
        for i, (category, _, crowd) in enumerate(true, 1):
            if i not in matched_true and not crowd and (true_ids == i).any():
                total[category][3] += 1
        for j, (category, _) in enumerate(found, 1):
            area = found_ids == j
            ignored = area & void
            for i, (true_category, _, crowd) in enumerate(true, 1):
                if crowd and true_category == category:
                    ignored |= area & (true_ids == i)
            if j not in matched_found and area.any() and ignored.sum() / area.sum() <= 0.5:
                total[category][2] += 1
    return {category: tuple(values) for category, values in total.items()}


@pytest.mark.parametrize("seed", range(40))
def test_crowds_and_void(seed, tmp_path):
    """Against the definition, written out segment by segment. (One crowd of a category in an image, as COCO has it.)"""
    rng = np.random.default_rng(1000 + seed)
    scenes = [random_scene(rng, void=True) for _ in range(4)]
    truth = []
    for scene in scenes:
        crowds = {category: rng.integers(0, 9) for category in (3, 10)}  # which of its objects is the crowd
        numbers: dict[int, int] = defaultdict(int)
        segments = []
        for category, mask in scene:
            segments.append((category, mask, int(crowds.get(category) == numbers[category])))
            numbers[category] += 1
        truth.append(segments)
    predicted = [disturbed(rng, scene) for scene in scenes]
    case = Case(tmp_path, truth, predicted)
    for category, (iou, tp, fp, fn) in written_out(case, truth, predicted).items():
        if tp + fp + fn:
            name = CATEGORIES[category][0]
            assert case.result.per_class[name] == pytest.approx(100 * iou / (tp + fp / 2 + fn / 2), rel=1e-9)


def test_by_hand(tmp_path):
    """One cat of IoU 3/5, one dog missed, sky found whole, road called sky where there is none."""
    truth: list[GroundTruth] = [
        [(11, rectangle(0, 12, 0, WIDTH), 0), (200, rectangle(12, 24, 0, WIDTH), 0), (3, rectangle(0, 4, 0, 4), 0)],
        [(10, rectangle(0, 5, 0, 5), 0)],
    ]
    predicted: list[Segments] = [
        [(11, rectangle(0, 12, 0, WIDTH)), (200, rectangle(12, 24, 0, 16)), (3, rectangle(0, 4, 1, 5))],
        [],
    ]
    result = Case(tmp_path, truth, predicted).result
    cat = 12 / 20
    sky = (384 - 20) / (384 - 16 + 4)  # the prediction has 4 pixels of the cat's, and lacks 4
    assert result.per_class["cat"] == pytest.approx(100 * cat)
    assert result.per_class["dog"] == 0
    assert result.per_class["sky"] == pytest.approx(100 * sky)
    assert result.per_class["road"] == 0  # IoU 1/2 is no match: it has to be above
    assert result.per_class["unseen"] == -1
    assert result.metrics["PQ_things"] == pytest.approx(100 * cat / 2)
    assert result.metrics["PQ_stuff"] == pytest.approx(100 * sky / 2)
    assert result.metrics["PQ"] == pytest.approx(100 * (cat + sky) / 4)
    assert result.metrics["SQ_things"] == pytest.approx(100 * cat / 2)
    assert result.metrics["RQ_things"] == pytest.approx(50)


def test_void_by_hand(tmp_path):
    """Void counts neither in the union nor, where it is more than half of a segment, as a mistake."""
    cat = rectangle(0, 4, 0, 4)
    larger = rectangle(0, 4, 0, 12)
    assert Case(tmp_path / "a", [[(3, cat, 0)]], [[(3, larger)]]).result.per_class["cat"] == 100
    elsewhere: Segments = [(3, cat), (10, rectangle(10, 14, 0, 4))]
    assert Case(tmp_path / "b", [[(3, cat, 0)]], [elsewhere]).result.per_class == {
        "cat": 100, "unseen": -1, "dog": -1, "sky": -1, "road": -1
    }  # fmt: skip
    half = rectangle(2, 6, 0, 4)  # a dog, half on the cat: just not more than half void
    assert Case(tmp_path / "c", [[(3, cat, 0)]], [[(10, half)]]).result.per_class["dog"] == 0


def test_crowd_by_hand(tmp_path):
    """A crowd need not be found; what is found on it, of its category, is no mistake."""
    crowd, cat = rectangle(0, 10, 0, 10), rectangle(12, 20, 0, 8)
    truth: list[GroundTruth] = [[(3, crowd, 1), (3, cat, 0)]]
    assert Case(tmp_path / "a", truth, [[(3, cat)]]).result.per_class["cat"] == 100
    assert Case(tmp_path / "b", truth, [[(3, cat), (3, rectangle(0, 4, 0, 4))]]).result.per_class["cat"] == 100
    other = Case(tmp_path / "c", truth, [[(3, cat), (10, rectangle(0, 4, 0, 4))]]).result.per_class
    assert (other["cat"], other["dog"]) == (100, 0)


@pytest.mark.parametrize("seed", range(10))
def test_ground_truth_against_itself(seed, tmp_path):
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, void=True) for _ in range(3)]
    case = Case(tmp_path, [[(category, mask, 0) for category, mask in scene] for scene in scenes], scenes)
    assert all(value in (100, -1) for value in case.result.metrics.values())
    assert case.result.metrics["PQ"] == case.result.metrics["PQ_stuff"] == 100


def test_submission(tmp_path):
    """The saved files are a submission: PNGs and JSON that give the same numbers by panopticapi's function."""
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, void=True) for _ in range(3)]
    truth: list[GroundTruth] = [[(category, mask, 0) for category, mask in scene] for scene in scenes]
    case = Case(tmp_path, truth, [disturbed(rng, scene) for scene in scenes])
    (tmp_path / "run/panoptic").mkdir(parents=True)
    (tmp_path / "run/panoptic/old.png").touch()
    case.evaluator.submission.save(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run/panoptic").iterdir()) == ["0.png", "1.png", "2.png"]
    saved = json.loads((tmp_path / "run/panoptic.json").read_text())
    for number, annotation in enumerate(saved["annotations"]):
        assert annotation["image_id"] == 5 + number
        assert annotation["file_name"] == f"{number}.png"
        with Image.open(tmp_path / "run/panoptic" / annotation["file_name"]) as image:
            ids = from_rgb(np.asarray(image))
        assert np.array_equal(ids > 0, case.predicted_ids[number] > 0)
        for segment in annotation["segments_info"]:
            assert segment["area"] == (ids == segment["id"]).sum()
            assert segment["isthing"] == CATEGORIES[segment["category_id"]][1]
    (tmp_path / "truth.json").write_text(json.dumps(case.ground_truth))
    result = pq_compute(str(tmp_path / "truth.json"), str(tmp_path / "run/panoptic.json"))
    assert 100 * result["All"]["pq"] == case.result.metrics["PQ"]
    assert 0 < case.result.metrics["PQ"] < 100


def test_only_images_that_came_by_count(tmp_path):
    cat = rectangle(0, 4, 0, 4)
    case = Case(tmp_path, [[(3, cat, 0)], [(10, cat, 0)]], [[(3, cat)], []])
    assert case.result.metrics["PQ"] == 50
    case.evaluator.reset()
    case.evaluator.update([5], case.found[:1])
    assert case.evaluator.compute().metrics["PQ"] == 100
    with pytest.raises(ValueError, match="twice"):
        case.evaluator.update([5], case.found[:1])
    with pytest.raises(ValueError, match="not in the ground truth"):
        case.evaluator.update([99], case.found[:1])
    case.evaluator.reset()
    with pytest.raises(ValueError, match="no image"):
        case.evaluator.compute()


def test_classes_without_category_become_void(tmp_path):
    """Holes of the identity map, which a young network may predict."""
    cat = rectangle(0, 4, 0, 4)
    case = Case(tmp_path, [[(3, cat, 0)]], [[]])
    classes = Classes(
        (*CLASSES.names, "N/A"), (*CLASSES.category_ids, 50), things=(True, True, False, False, True, True)
    )
    evaluator = PanopticQuality(ground_truth=case.ground_truth, classes=classes)
    assert evaluator.things.tolist() == [True, True, False, False, True, True]
    segments: Segments = [(3, cat), (10, rectangle(10, 20, 0, 9))]
    found = segments_of(segments)
    found.labels[1] = 5
    evaluator.update([5], [found])
    assert evaluator.compute().per_class["cat"] == 100
    assert evaluator.compute().per_class["dog"] == -1
    evaluator.submission.save(tmp_path / "run")
    (annotation,) = json.loads((tmp_path / "run/panoptic.json").read_text())["annotations"]
    assert [segment["category_id"] for segment in annotation["segments_info"]] == [3]


def test_images_of_one_name(tmp_path):
    case = Case(tmp_path, [[], []], [[], []])
    case.ground_truth["images"][1]["file_name"] = "other/0.jpg"
    evaluator = PanopticQuality(ground_truth=case.ground_truth, classes=CLASSES)
    evaluator.update([5, 6], case.found)
    evaluator.submission.save(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run/panoptic").iterdir()) == ["5.png", "6.png"]
    assert set(evaluator.compute().metrics.values()) == {-1}
