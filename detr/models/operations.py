"""Linear layers, dropout and attention: torch.nn's, with other ways to the same numbers where those are faster."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

LARGE = 2**21  # multiplications; below, a product is over before oneDNN has been asked
STEPS = 2**16  # of the random numbers that dropout draws


def eager_on_cpu(x: Tensor) -> bool:
    """Return whether this is computed now, on a CPU: what is exported or compiled is left to who does that."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply as `F.linear` does: x [..., I], weight [O, I], bias [O] → [..., O].

    On a CPU fp32 is multiplied as a 1×1 convolution, which oneDNN computes: PyTorch gives matrix products to MKL, which
    on AMD's processors knows half of their vector units. Elsewhere the two are alike.
    """
    by_convolution = (
        x.dtype == weight.dtype == torch.float32
        and eager_on_cpu(x)
        and x.numel() * len(weight) >= LARGE
        and torch.get_num_threads() > 1  # else PyTorch gives 1×1 convolutions to MKL, too
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )
    if not by_convolution:
        return F.linear(x, weight, bias)
    row = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # [1, I, 1, N], channels last in memory
    return F.conv2d(row, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """Applies `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero elements with probability p, to 1 in 131,072, and scale the others, as `F.dropout` does.

    On a CPU that draws two random numbers of 32 bits for each element; here they are enough for four.
    """
    if not (training and 0 < round(p * STEPS) < STEPS and eager_on_cpu(x)):
        return F.dropout(x, p, training)
    return masked(x, *kept(x.shape, p))


def kept(shape: Sequence[int], p: float) -> tuple[Tensor, float]:
    """Draw what dropout keeps, bool of this shape, and say what it is multiplied with."""
    dropped, count = round(p * STEPS), math.prod(shape)
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return drawn.view(torch.int16)[:count].view(shape) >= dropped - STEPS // 2, STEPS / (STEPS - dropped)


def masked(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Multiply with a mask and a number in one pass, and so in the backward pass, for which the bool mask is kept."""
    return torch.ops.aten.native_dropout_backward(x, kept, scale)


class Dropout(nn.Dropout):
    """Applies `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """Return `F.scaled_dot_product_attention` [B, heads, Q, C], with dropout p of its weights.

    Args:
        queries, keys, values: [B, heads, …, C].
        mask: broadcast to [B, heads, Q, T]; bool, True = may attend, or added to the scores.
        p: 0 outside of training.
    """
    if not (0 < round(p * STEPS) < STEPS and eager_on_cpu(queries)):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=p)
    chosen = kept((*queries.shape[:-1], keys.shape[-2]), p)

    def mixed(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
        if mask is not None:
            scores = scores + (added(~mask, scores) if mask.dtype == torch.bool else mask)
        return masked(scores.softmax(-1), *chosen) @ values

    # Weights are computed again in the backward pass: they are what an encoder would keep most of.
    return checkpoint(mixed, queries, keys, values, mask, use_reentrant=False, preserve_rng_state=False)


def added(forbidden: Tensor, like: Tensor) -> Tensor:
    """Return what is added to scores: minus infinity where this bool mask is true, else 0."""
    return torch.zeros_like(forbidden, dtype=like.dtype).masked_fill(forbidden, -torch.inf)


def heads_of(x: Tensor, heads: int) -> Tensor:
    """Return the part of each head: [B, Q, D] → [B, heads, Q, D / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Attention(nn.MultiheadAttention):
    """Computes what `nn.MultiheadAttention` does, with its parameters; batches come first.

    Queries and keys that are one tensor are projected at once.
    """

    def __init__(self, d_model: int, num_heads: int, p: float) -> None:
        super().__init__(d_model, num_heads, p, batch_first=True)

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend: query [B, Q, D], key and value [B, T, D] → [B, Q, D].

        Args:
            query, key, value: before they are projected.
            key_padding_mask: [B, T] bool, True = may not be attended to.
            need_weights: return weights [B, Q, T], a mean over the heads, too.
            attn_mask: [Q, T] bool, True = may not attend, or a bias [B · heads, Q, T].
        """
        if need_weights:
            return super().forward(query, key, value, key_padding_mask, attn_mask=attn_mask)
        width = self.embed_dim
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key:
            queries, keys = linear(query, weight[: 2 * width], bias[: 2 * width]).chunk(2, -1)
        else:
            queries = linear(query, weight[:width], bias[:width])
            keys = linear(key, weight[width : 2 * width], bias[width : 2 * width])
        values = linear(value, weight[2 * width :], bias[2 * width :])
        queries, keys, values = (heads_of(each, self.num_heads) for each in (queries, keys, values))
        mask = self._mask(query, key_padding_mask, attn_mask)
        mixed = attend(queries, keys, values, mask, self.dropout if self.training else 0.0)
        return linear(mixed.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias), None

    def _mask(self, query: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Both masks as one that is added to the scores."""
        if mask is not None:
            mask = added(mask, query) if mask.dtype == torch.bool else mask.view(-1, self.num_heads, *mask.shape[1:])
        if padding is None:
            return mask
        of_tokens = added(padding, query)[:, None, None]
        return of_tokens if mask is None else mask + of_tokens
