"""One matching of queries and objects for all layers (D-FINE, Peng et al. 2024, section 4.2, "GO-LSD")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from detr import distributed
from detr.losses.matched import Matched
from detr.structures import Group, Matches, Normalizer


def united(groups: Mapping[str, Group], seen: Mapping[str, Matched]) -> dict[str, Matched]:
    """Return what terms of boxes see instead of each group, where every layer learns from what any layer has found.

    Queries that count, and what they said before the decoder's layers: who answers for an object in one of the
    matchings does so in all of them, for the object that it has most often. Other groups stay what they are.

    Args:
        groups: by name.
        seen: what terms see of each group.
    """
    names = [name for name, group in groups.items() if not name or (group.earlier and group.answers == 1)]
    matches = union([seen[name].matches for name in names])
    normalizer = of_pairs(seen[""].normalizer, pairs=len(matches), objects=len(seen[""].targets))
    found: dict[str, Matched] = {}
    for name, matched in seen.items():
        found[name] = replace(matched, groups=found)
        if name in names:
            layers = len(matched.predictions.logits)
            found[name] = replace(found[name], matches=matches.for_layers(layers), normalizer=normalizer)
    return found


def union(matchings: list[Matches]) -> Matches:
    """Return the pairs of all layers of all matchings as those of a single layer.

    A query that has several objects keeps the one that it has most often, of equals the first. Counted on the host,
    where the pairs come from: their number depends on them, and a device would have to be waited for.
    """
    device = matchings[0].query.device
    columns = [torch.stack([each.image, each.query, each.target]) for each in matchings]
    pairs, counts = np.unique(torch.cat(columns, 1).cpu().numpy(), axis=1, return_counts=True)
    often_first = np.argsort(-counts, kind="stable")
    _, chosen = np.unique(pairs[:2, often_first], axis=1, return_index=True)
    image, query, target = torch.from_numpy(pairs[:, often_first[chosen]])
    return Matches(torch.zeros_like(image), image, query, target, 1).to(device, non_blocking=True)


def of_pairs(normalizer: Normalizer, *, pairs: int, objects: int) -> Normalizer:
    """Return the normalizer for losses of more pairs than there are objects.

    The pairs of the whole step are not known before its last micro-batch: they grow as the objects of this one do, in
    all processes together.

    Args:
        normalizer: whose objects are counted over the whole step.
        pairs, objects: of this micro-batch.
    """
    if normalizer.processes > 1:
        all_pairs, all_objects = distributed.total([pairs, objects])
    else:
        all_pairs, all_objects = float(pairs), float(objects)
    return replace(normalizer, objects=normalizer.objects * all_pairs / all_objects) if all_objects else normalizer
