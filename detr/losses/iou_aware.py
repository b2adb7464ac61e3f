"""IoU-aware binary cross-entropy (Align-DETR, Cai et al. 2023, section 3.2; LW-DETR, Chen et al. 2024, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detr.boxes import cxcywh_to_xyxy, iou
from detr.losses.matched import Matched
from detr.losses.terms import Term, check_focus

LEAST = 0.01  # target of an answer, however bad its box: it has to go on learning


class IoUAwareBCE(Term):
    """Classifies by sigmoids whose target mixes the score p with the box's IoU: t = p^α · IoU^(1 − α), at least 0.01.

    What is no object counts p^γ. No gradient goes through t; one goes through p^γ, as in the authors' code. Over the
    number of objects. By logits, not by logarithms of probabilities, of which one that is sure becomes infinite.

    Args:
        weight: what the criterion multiplies it with; at least 0.
        alpha: α, part of the score in the target.
        gamma: γ, how much less what is easy counts.
        tau: of several that answer for one object the target of the r-th best, from 0, is multiplied with e^(−r / tau)
            (Align-DETR's prime samples, section 3.4: 1.5). Its losses of boxes and its mixed matching are not here:
            several answer where `one_to_many=hybrid` or the queries' `copies` let them. null: all count alike.

    Raises:
        ValueError: no such weight, exponent or tau.
    """

    classification = "sigmoid"

    def __init__(
        self, *, weight: float = 1.0, alpha: float = 0.25, gamma: float = 2.0, tau: float | None = None
    ) -> None:
        super().__init__(weight=weight)
        check_focus(alpha, gamma)
        if tau is not None and tau <= 0:
            raise ValueError(f"tau: expected a number above 0, got {tau}")
        self.alpha, self.gamma, self.tau = alpha, gamma, tau

    def forward(self, matched: Matched) -> Tensor:
        logits = matched.predictions.logits
        predicted, wanted = matched.boxes()
        answers = (*matched.matches.index, matched.labels())
        scores = logits.sigmoid()
        quality = iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        target = (scores[answers] ** self.alpha * quality ** (1 - self.alpha)).clamp(min=LEAST).detach()
        if self.tau is not None and matched.copies > 1:
            target = target * (-matched.ranks(target) / self.tau).exp()
        yes = torch.zeros_like(logits).index_put(answers, target)
        no = (scores**self.gamma).index_put(answers, 1 - target)
        losses = yes * F.softplus(-logits) + no * F.softplus(logits)
        return losses.sum((1, 2, 3)) / matched.normalizer.objects
