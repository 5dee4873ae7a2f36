"""Layers of torch that cannot lose channels as they are, and the classes that stand in for them.

A stand-in is a subclass with the same parameters and equal outputs, so a module becomes one by a change of its class:
its hooks, its state-dict keys and every reference to it stay."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["STAND_INS", "HeadwiseAttention"]


class HeadwiseAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention whose heads, and the channels within them, can go on their own, whatever embed_dim is.

    Same arguments, masks and results as the base class, in train and eval mode.
    """

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False keeps torch's encoder layers from bypassing `forward` with a kernel that assumes the full width."""
        return False

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        pass

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """query (batch, n, embed), key (batch, m, kdim), value (batch, m, vdim), or (n, batch, embed), or unbatched."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        q, k, v = self._project(*(self._batch_first(tensor, batched) for tensor in (query, key, value)))
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        mask = self._merge_masks(attn_mask, key_padding_mask, q, k)
        q, k, v = (self._split_heads(tensor) for tensor in (q, k, v))
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        weights = None
        scale = float(self.head_dim) ** -0.5  # of the whole width, whatever is left of it
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * scale) @ k.transpose(-2, -1)
            weights = F.dropout(F.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
            mixed = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        out = F.linear(mixed.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _batch_first(self, tensor: Tensor, batched: bool) -> Tensor:
        if not batched:
            return tensor.unsqueeze(0)
        return tensor if self.batch_first else tensor.transpose(0, 1)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each (batch, positions, num_heads * head_dim), with the learned extra key and value appended."""
        if self.in_proj_weight is not None:
            q_weight, k_weight, v_weight = self.in_proj_weight.chunk(3)
        else:
            q_weight, k_weight, v_weight = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(tensor, weight, bias)
            for tensor, weight, bias in zip((query, key, value), (q_weight, k_weight, v_weight), biases, strict=True)
        )
        if self.bias_k is not None and self.bias_v is not None:
            batch = k.shape[0]
            k = torch.cat((k, self.bias_k.expand(batch, -1, -1)), dim=1)
            v = torch.cat((v, self.bias_v.expand(batch, -1, -1)), dim=1)
        return q, k, v

    def _split_heads(self, tensor: Tensor) -> Tensor:
        batch, positions, _ = tensor.shape
        return tensor.view(batch, positions, self.num_heads, -1).transpose(1, 2)

    def _merge_masks(self, attention: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """One additive mask that broadcasts to (batch, heads, n, m); learned and zero positions are never masked."""
        merged: Tensor | None = None
        if attention is not None:
            if attention.dim() == 3:
                attention = attention.view(q.shape[0], self.num_heads, *attention.shape[-2:])
            merged = self._additive(attention, q)
        if padding is not None:
            additive = self._additive(padding, q)[:, None, None, :]
            merged = additive if merged is None else merged + additive
        if merged is None:
            return None
        extra = k.shape[1] + int(self.add_zero_attn) - merged.shape[-1]
        return F.pad(merged, (0, extra)) if extra else merged

    @staticmethod
    def _additive(mask: Tensor, like: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(like.dtype)
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


STAND_INS: dict[type[nn.Module], type[nn.Module]] = {nn.MultiheadAttention: HeadwiseAttention}
