"""MBLM from the paper's equations in plain loops (Eq. 5-12, Fig 2-4): slow and obvious.

The oracle reads a model's parameters by name, and uses only the forward of a transformer layer. Masks, rotary angles,
mixers, the detach rule and the heads are written out here.
Letters: B batch, n tokens, d width, N languages with a branch, K branch depth, L layers, C classes.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

HEAD_DROPOUT = {"distilbert": "dropout", "modernbert": "classifier_dropout", "eurobert": "attention_dropout"}
FINAL_NORM = {"modernbert": "final_norm", "eurobert": "norm", "xlm-roberta-xl": "encoder.LayerNorm"}


def mixing_weights(states: list[Tensor], v: Tensor, mask: Tensor) -> list[list[list[Tensor]]]:
    """w[b][f][l], the share of branch l in feature f of example b: Eq. 10 and 11, one number at a time."""
    batch, length, width = states[0].shape
    is_token = mask.bool().tolist()
    rows = []
    for b in range(batch):
        features = []
        for f in range(width):
            scores = []
            for state in states:  # Eq. 10: the dot product over the positions that hold a token
                score = torch.zeros((), dtype=state.dtype)
                for i in range(length):
                    if is_token[b][i]:
                        score = score + v[i] * state[b, i, f]
                scores.append(score)
            largest = max(float(score.detach()) for score in scores)
            powers = [(score - largest).exp() for score in scores]
            features.append([power / sum(powers) for power in powers])  # Eq. 11: over the languages
        rows.append(features)
    return rows


def mix(states: list[Tensor], v: Tensor, mask: Tensor) -> Tensor:
    """Eq. 12, (B, n, d): every position of a feature is blended with the same weights."""
    weights = mixing_weights(states, v, mask)
    batch, _, width = states[0].shape
    return torch.stack(
        [
            torch.stack(
                [sum(w * state[b, :, f] for w, state in zip(weights[b][f], states, strict=True)) for f in range(width)],
                dim=-1,
            )
            for b in range(batch)
        ]
    )


def attention_mask(mask: Tensor, reach: int | None, dtype: torch.dtype) -> Tensor:
    """(B, 1, n, n): 0 where query i attends to key j, very negative elsewhere; `reach` limits local attention."""
    batch, length = mask.shape
    is_token, never = mask.bool().tolist(), torch.finfo(dtype).min
    allowed = [
        [[0.0 if is_token[b][j] and (reach is None or abs(i - j) <= reach) else never for j in range(length)]]
        for b in range(batch)
        for i in range(length)
    ]
    return torch.tensor(allowed, dtype=dtype).view(batch, 1, length, length)


def rotary(length: int, head_width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (1, n, head width) of position x base^(-2j / head width)."""
    angles = torch.zeros(1, length, head_width)
    for i in range(length):
        for j in range(head_width // 2):
            frequency = 1.0 / torch.tensor(base) ** (torch.tensor(2.0 * j) / head_width)
            angles[0, i, j] = angles[0, i, j + head_width // 2] = i * frequency
    return angles.cos().to(dtype), angles.sin().to(dtype)


class Oracle:
    """The same function of the same parameters as an `MBLMForSequenceClassification`."""

    def __init__(self, model: nn.Module):
        self.model, self.config, self.encoder = model, model.config, model.encoder
        self.kind = self.encoder.config.model_type

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        language: str | None = None,
    ) -> Tensor:
        """Logits (B, C)."""
        model, config = self.model, self.config
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        languages = list(config.branch_languages)
        k = languages.index(language) if language in languages else None
        H = self.embed(input_ids, token_type_ids, mask)
        if config.branch_depth == 0:
            return self.head(self.through_shared(H, mask), model.head)
        if config.branch_position == "top":
            H = self.through_shared(H, mask)
        states = self.through_branches(H, mask, k)
        if config.heads == "per_language":
            if k is not None:
                return self.head(states[k], model.heads[k])
            return sum(self.head(states[branch], model.heads[branch]) for branch in states) / len(states)
        if config.mixers == "none":
            H = sum(states.values()) / len(states)
        else:
            H = mix(list(states.values()), model.outer, mask)
        if config.branch_position == "bottom":
            H = self.through_shared(H, mask)
        return self.head(H, model.head)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        """H_0 (Eq. 5)."""
        if self.kind == "eurobert":
            return self.encoder.embed_tokens(input_ids)
        if self.kind in ("distilbert", "modernbert", "mpnet"):
            return self.encoder.embeddings(input_ids)
        if self.kind == "deberta-v2":
            return self.encoder.embeddings(input_ids, token_type_ids, mask=mask)
        found = self.encoder.embeddings(input_ids, token_type_ids)
        if self.kind == "electra":
            return self.encoder.embeddings_project(found)
        return self.encoder.encoder.embedding_hidden_mapping_in(found) if self.kind == "rembert" else found

    def through_shared(self, H: Tensor, mask: Tensor) -> Tensor:
        for layer in self.model.shared:  # Eq. 6
            H = self.layer(layer, H, mask)
        return H

    def through_branches(self, H: Tensor, mask: Tensor, k: int | None) -> dict[int, Tensor]:
        """Return the branches' states at layer K, before the outer mixer."""
        model, config = self.model, self.config
        branches = list(range(len(config.branch_languages)))
        if k is not None and config.mixers == "none" and (model.training or config.inference == "single"):
            branches = [k]  # Fig 4b: a training batch uses its own branch only
        states = dict.fromkeys(branches, H)  # H_0^(l) = H_0
        for i in range(config.branch_depth):
            outputs = {}
            for branch in branches:
                layer = model.branches[branch][i]
                layer.train(model.training and (branch == k or config.idle_dropout))
                outputs[branch] = self.layer(layer, states[branch], mask)  # Eq. 7
                layer.train(model.training)
                if config.detach and branch != k:
                    outputs[branch] = outputs[branch].detach()  # Eq. 8
            states = outputs
            if config.mixers == "all" and i < config.branch_depth - 1:
                for branch in branches:  # Eq. 9, the inner mixer: one submodule per following branch
                    states = {**states, branch: mix(list(outputs.values()), model.inner[branch][i], mask)}
        return states

    def layer(self, layer: nn.Module, H: Tensor, mask: Tensor) -> Tensor:
        # A model's last layer may return its first position only; the forward of its class returns all positions. In
        # training, the layer itself is called, because it draws the same dropout.
        call = layer if self.model.training else partial(type(layer).forward, layer)
        encoder = self.encoder.config
        if self.kind == "deberta-v2":
            return self.disentangled(call, layer, H, mask)
        if self.kind == "mpnet":
            return call(H, attention_mask(mask, None, H.dtype), self.encoder.encoder.compute_position_bias(H))[0]
        if self.kind == "eurobert":
            base, width = encoder.rope_parameters["rope_theta"], encoder.head_dim
            angles = rotary(H.shape[1], width, base, H.dtype)
            return call(H, attention_mask=attention_mask(mask, None, H.dtype), position_embeddings=angles)
        if self.kind != "modernbert":
            found = call(H, attention_mask(mask, None, H.dtype))
            return found[0] if isinstance(found, tuple) else found
        reach = encoder.local_attention // 2 if layer.attention_type == "sliding_attention" else None
        base = encoder.rope_parameters[layer.attention_type]["rope_theta"]
        angles = rotary(H.shape[1], encoder.hidden_size // encoder.num_attention_heads, base, H.dtype)
        return call(H, attention_mask=attention_mask(mask, reach, H.dtype), position_embeddings=angles)

    def disentangled(self, call: Any, layer: nn.Module, H: Tensor, mask: Tensor) -> Tensor:
        """DeBERTa's layer: distances between positions in buckets, and the first layer's convolution over tokens."""
        tokens = mask[:, None, None, :] * mask[:, None, :, None]  # (B, 1, n, n)
        distances = torch.tensor([[[i - j for j in range(H.shape[1])] for i in range(H.shape[1])]])
        assert self.encoder.encoder.position_buckets < 1  # buckets are the distances themselves
        vectors = self.encoder.encoder.LayerNorm(self.encoder.encoder.rel_embeddings.weight)
        found = call(H, tokens, relative_pos=distances, rel_embeddings=vectors)[0]
        conv = getattr(getattr(layer, "base", layer), "conv", None)
        if conv is None:
            return found
        is_token = mask[:, :, None]
        convolved = conv.conv(H.transpose(1, 2)).transpose(1, 2).contiguous() * is_token  # same order of dropout draws
        convolved = torch.tanh(conv.dropout(convolved))
        return conv.LayerNorm(found + convolved) * is_token

    def head(self, H: Tensor, head: nn.Linear) -> Tensor:
        if self.kind in FINAL_NORM:
            H = self.encoder.get_submodule(FINAL_NORM[self.kind])(H)
        rate = getattr(self.encoder.config, HEAD_DROPOUT.get(self.kind, "hidden_dropout_prob"))
        first = nn.functional.dropout(H[:, 0], rate, self.model.training)
        return first @ head.weight.T + head.bias
