"""DETR-R50 against Hugging Face's with the same weights: forward pass, every loss term, every gradient.

Hugging Face's own auxiliary outputs are not used: with `auxiliary_loss` its decoder hands the normalised state of a
layer to the next one, which neither the paper nor its code does. Its decoder layers' outputs are taken instead, and
its norm and heads applied to them.
"""

from __future__ import annotations

import functools
import re

import pytest
import torch
from builders import random_images, random_targets
from torch import Tensor, nn

from detr.losses.criterion import SetCriterion
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, CrossEntropy, GIoU
from detr.models.backbone import ResNet
from detr.models.box_coder import LogitBoxCoder
from detr.models.decoder import TransformerDecoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.layers import LayerConfig
from detr.models.neck import Neck
from detr.models.position_embedding import LearnedPositionEmbedding, SinePositionEmbedding
from detr.models.queries import LearnedQueries
from detr.structures import Losses, Normalizer, Predictions, Targets

CLASSES, QUERIES, LAYERS, WIDTH, HIDDEN = 11, 12, 3, 64, 96

# Our names → Hugging Face's, by regular expression; the first that fits the whole name counts.
NAMES = (
    (r"neck\.projections\.0\.(\w+)", r"model.input_projection.\1"),
    (r"queries\.embedding\.weight", r"model.query_position_embeddings.weight"),
    (r"decoder\.norm\.(\w+)", r"model.decoder.layernorm.\1"),
    (r"class_head\.(\w+)", r"class_labels_classifier.\1"),
    (r"box_head\.(.*)", r"bbox_predictor.\1"),
    (r"(\w+)\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"model.\1.layers.\2.self_attn.o_proj.\3"),
    (r"(\w+)\.layers\.(\d+)\.cross_attn\.out_proj\.(\w+)", r"model.\1.layers.\2.encoder_attn.o_proj.\3"),
    (r"(\w+)\.layers\.(\d+)\.feed_forward\.linear(\d)\.(\w+)", r"model.\1.layers.\2.mlp.fc\3.\4"),
    (r"(\w+)\.layers\.(\d+)\.norm1\.(\w+)", r"model.\1.layers.\2.self_attn_layer_norm.\3"),
    (r"encoder\.layers\.(\d+)\.norm2\.(\w+)", r"model.encoder.layers.\1.final_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.norm2\.(\w+)", r"model.decoder.layers.\1.encoder_attn_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.norm3\.(\w+)", r"model.decoder.layers.\1.final_layer_norm.\2"),
    (r"backbone\.body\.conv1\.(\w+)", r"model.backbone.model.embedder.embedder.convolution.\1"),
    (r"backbone\.body\.bn1\.(\w+)", r"model.backbone.model.embedder.embedder.normalization.\1"),
)
STAGES = r"backbone\.body\.layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)"
ATTENTION = r"(\w+)\.layers\.(\d+)\.(self|cross)_attn\.in_proj_(\w+)"


def hugging_face_state(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict (or gradients) of ours under Hugging Face's names. Raises KeyError for a name without rule."""
    theirs: dict[str, Tensor] = {}
    for name, value in ours.items():
        if match := re.fullmatch(ATTENTION, name):
            side, layer, kind, what = match.groups()
            attention = f"model.{side}.layers.{layer}.{'self' if kind == 'self' else 'encoder'}_attn"
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                theirs[f"{attention}.{part}_proj.{what}"] = chunk
        elif match := re.fullmatch(STAGES, name):
            theirs[_stage_name(*match.groups())] = value
        else:
            theirs[_plain_name(name)] = value
    return theirs


def _stage_name(stage: str, block: str, kind: str, number: str, what: str) -> str:
    prefix = f"model.backbone.model.encoder.stages.{int(stage) - 1}.layers.{block}"
    if kind == "downsample.":
        return f"{prefix}.shortcut.{'convolution' if number == '0' else 'normalization'}.{what}"
    return f"{prefix}.layer.{int(number) - 1}.{'convolution' if kind == 'conv' else 'normalization'}.{what}"


def _plain_name(name: str) -> str:
    for pattern, replacement in NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise KeyError(name)


def our_detector() -> DETR:
    """DETR-R50 with a narrow transformer, its norms and biases given values that matter."""
    torch.manual_seed(0)
    layer = LayerConfig(d_model=WIDTH, num_heads=4, dim_feedforward=HIDDEN, dropout=0.1)
    model = DETR(
        backbone=ResNet(name="resnet50", weights=None),
        neck=functools.partial(Neck, d_model=WIDTH, position_embedding=SinePositionEmbedding(d_model=WIDTH)),
        encoder=TransformerEncoder(num_layers=2, layer=layer),
        decoder=TransformerDecoder(num_layers=LAYERS, layer=layer),
        queries=functools.partial(LearnedQueries, num_queries=QUERIES, d_model=WIDTH, box_coder=LogitBoxCoder()),
        num_classes=CLASSES,
        d_model=WIDTH,
    )
    for name, parameter in model.named_parameters():  # fresh norms and biases of 1 and 0 would hide that they are used
        if parameter.dim() == 1 and not name.startswith("backbone"):
            nn.init.normal_(parameter, parameter.detach().mean().round().item(), 0.2)
    for name, buffer in model.backbone.body.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            buffer.normal_(0, 0.1)
        else:  # the scale of batch norm; lower at the end of a block, so that 16 of them do not blow up
            buffer.uniform_(0.2, 0.6) if name.endswith("bn3.weight") else buffer.uniform_(0.8, 1.2)
    return model.eval()


def their_detector(ours: DETR) -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    config = DetrConfig(
        backbone_config=ResNetConfig(out_features=["stage4"]),
        use_timm_backbone=False,
        num_labels=CLASSES,
        num_queries=QUERIES,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=LAYERS,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=HIDDEN,
        decoder_ffn_dim=HIDDEN,
    )
    model = DetrForObjectDetection(config)
    model.load_state_dict(hugging_face_state(ours.state_dict()), strict=True)
    for name, parameter in model.named_parameters():  # as ours; theirs trains the stem of this kind of backbone
        parameter.requires_grad_(not re.search(r"embedder|encoder\.stages\.0", name))
    return model.eval()


def scene(dtype: torch.dtype) -> tuple[Tensor, Tensor, Targets]:
    """Three images of two sizes, with three, one and no objects."""
    images, padding = random_images([(64, 96), (96, 64), (96, 96)])
    targets = random_targets([3, 0, 1], classes=CLASSES)
    targets.boxes = targets.boxes.to(dtype)
    return images.to(dtype), padding, targets


def their_outputs(model: nn.Module, pixels: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits and boxes of every decoder layer."""
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, arguments, output: states.append(output))
        for layer in model.model.decoder.layers
    ]
    last = model(pixel_values=pixels, pixel_mask=(~padding).long())
    for hook in hooks:
        hook.remove()
    hidden = model.model.decoder.layernorm(torch.stack(states))
    logits, boxes = model.class_labels_classifier(hidden), model.bbox_predictor(hidden).sigmoid()
    torch.testing.assert_close(logits[-1], last.logits)  # what it says itself of its last layer
    torch.testing.assert_close(boxes[-1], last.pred_boxes)
    return logits, boxes


def their_losses(logits: Tensor, boxes: Tensor, targets: Targets) -> dict[str, Tensor]:
    from transformers.loss.loss_for_object_detection import HungarianMatcher as TheirMatcher
    from transformers.loss.loss_for_object_detection import ImageLoss

    each = [{"logits": layer, "pred_boxes": box} for layer, box in zip(logits, boxes, strict=True)]
    labels = [
        {"class_labels": label, "boxes": box}
        for label, box in zip(targets.labels.split(targets.counts), targets.boxes.split(targets.counts), strict=True)
    ]
    matcher = TheirMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    criterion = ImageLoss(matcher, CLASSES, 0.1, ["labels", "boxes", "cardinality"]).to(logits.dtype)
    return criterion(each[-1] | {"auxiliary_outputs": each[:-1]}, labels)


def our_losses(predictions: Predictions, targets: Targets) -> Losses:
    criterion = SetCriterion(
        matcher=HungarianMatcher(),
        terms={"class": CrossEntropy(), "bbox": L1(weight=5), "giou": GIoU(weight=2)},
    )
    return criterion(predictions, targets, Normalizer(objects=len(targets), images=len(targets.counts)))


@pytest.fixture(scope="module")
def detectors() -> tuple[DETR, nn.Module]:
    ours = our_detector()
    return ours, their_detector(ours)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()


def test_forward_and_losses(detectors: tuple[DETR, nn.Module]) -> None:
    ours, theirs = (model.float() for model in detectors)
    images, padding, targets = scene(torch.float32)
    with torch.no_grad():
        predictions = ours(images, padding)
        logits, boxes = their_outputs(theirs, ours.backbone.normalize(images, padding), padding)
        losses, expected = our_losses(predictions, targets), their_losses(logits, boxes, targets)
    assert predictions.logits.shape == (LAYERS, 3, QUERIES, CLASSES + 1)
    assert predictions.logits.std(2).mean() > 1e-3  # queries differ: the comparison is not one of constants
    assert relative_error(predictions.logits, logits) < 1e-4
    assert relative_error(predictions.boxes, boxes) < 1e-4
    weights = {"class": ("loss_ce", 1), "bbox": ("loss_bbox", 5), "giou": ("loss_giou", 2)}
    for layer in range(LAYERS):
        suffix = "" if layer == LAYERS - 1 else f"_{layer}"
        for name, (their_name, weight) in weights.items():
            assert losses.terms[name][layer].item() == pytest.approx(
                weight * expected[their_name + suffix].item(), rel=1e-4
            )
        cardinality = losses.metrics["cardinality_error"][layer].item()
        assert cardinality == pytest.approx(expected["cardinality_error" + suffix].item())
    assert losses.total.item() == pytest.approx(sum(value.sum().item() for value in losses.terms.values()), rel=1e-6)


def test_gradients(detectors: tuple[DETR, nn.Module]) -> None:
    ours, theirs = (model.double() for model in detectors)
    images, padding, targets = scene(torch.float64)
    predictions = ours(images, padding)
    assert predictions.logits.dtype == predictions.boxes.dtype == torch.float64  # nothing is rounded on the way
    our_losses(predictions, targets).total.backward()
    logits, boxes = their_outputs(theirs, ours.backbone.normalize(images, padding), padding)
    weights = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2, "cardinality_error": 0}
    terms = their_losses(logits, boxes, targets)
    sum(weights[re.sub(r"_\d+$", "", name)] * value for name, value in terms.items()).backward()

    gradients = hugging_face_state({n: p.grad for n, p in ours.named_parameters() if p.grad is not None})
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    assert len(expected) > 100
    for name, gradient in expected.items():
        if name.endswith("k_proj.bias"):  # adding a vector to every key changes nothing; both are rounding
            assert max(gradients[name].abs().max(), gradient.abs().max()) < 1e-8
        elif gradient.abs().max() == 0:
            assert gradients[name].abs().max() == 0, name
        else:
            assert relative_error(gradients[name], gradient) < 1e-4, name


@pytest.mark.parametrize("kind", ["sine", "learned"])
def test_positions(kind: str) -> None:
    from transformers.models.detr.modeling_detr import DetrLearnedPositionEmbedding, DetrSinePositionEmbedding

    padding = random_images([(7, 11), (9, 4), (9, 11)])[1]
    shape = torch.Size([3, WIDTH, 9, 11])
    if kind == "sine":
        ours: nn.Module = SinePositionEmbedding(d_model=WIDTH)
        theirs: nn.Module = DetrSinePositionEmbedding(WIDTH // 2, normalize=True)
    else:
        ours, theirs = LearnedPositionEmbedding(d_model=WIDTH), DetrLearnedPositionEmbedding(WIDTH // 2)
        theirs.row_embeddings.weight, theirs.column_embeddings.weight = ours.row_embed.weight, ours.col_embed.weight
    expected = theirs(shape=shape, device="cpu", dtype=torch.float32, mask=~padding)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(padding), expected, rtol=1e-5, atol=1e-5)
