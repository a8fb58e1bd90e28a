"""MBLM: a multilingual encoder with a branch per supervised language, as a transformers model (Eq. 5-12, Fig 2-4).

Letters: B batch, n tokens, d width, N languages with a branch, K branch depth, L layers, C classes.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from mbkd.errors import UserError
from mbkd.model import backbones, mixer
from mbkd.model.configuration import MBLMConfig, temperature_of
from mbkd.model.low_rank import LowRankLayer
from mbkd.precision import without_autocast

# Arguments of transformers' from_pretrained that locate files.
WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class MBLMForSequenceClassification(PreTrainedModel):
    """MBLM classifier.

    Parameters of branch l are named `branches.l.*`, `inner.l.*` and `heads.l.*`; all others are shared. `base` holds
    the shared layers of low-rank branches; every language trains `base` through its branch.
    """

    config_class = MBLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("MBLMForSequenceClassification",)  # branches are mixed on one device

    def __init__(self, config: MBLMConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        # Embeddings, rotary positions and final norm stay in the encoder, whose class initialises their buffers.
        # The encoder's layers become the branches and the shared layers.
        self.encoder = encoder if encoder is not None else backbones.empty(config.backbone_config)
        self.family = backbones.family(self.encoder.config)
        layers = self.family.take_layers(self.encoder)
        L, K, N = len(layers), config.branch_depth, len(config.branch_languages)
        if not 0 <= K <= L:
            raise UserError(f"branch_depth {K} does not fit an encoder of {L} layers")
        first = 0 if config.branch_position == "bottom" else L - K
        branched = layers[first : first + K]

        # ModuleList, not ModuleDict: a language code can be an attribute of a module ("to", "half").
        self.base = branched if config.branch_rank and K else nn.ModuleList()  # shared layers of low-rank branches
        self.branches = nn.ModuleList(self._branch(branched) for _ in range(N if K else 0))
        self.shared = nn.ModuleList(layer for i, layer in enumerate(layers) if not first <= i < first + K)
        if first + K < L or K == 0:  # the last layer is shared, so no mixer follows
            self.family.narrow(self.shared[-1])
        # A Parameter per vector, not one stacked tensor: only the batch's language is trained.
        inner = K - 1 if K and config.mixers == "all" else 0
        self.inner = nn.ModuleList(nn.ParameterList(self._vector() for _ in range(inner)) for _ in range(N if K else 0))
        outer = K > 0 and config.mixers != "none" and config.heads == "shared"
        self.outer = self._vector() if outer else None
        self.dropout = nn.Dropout(getattr(self.encoder.config, self.family.dropout))
        own_heads = N if K and config.heads == "per_language" else 0
        self.heads = nn.ModuleList(self._linear() for _ in range(own_heads))
        self.head = None if own_heads else self._linear()
        # Callback with the name and the weights (N, B, d) of every mixer that runs.
        self.watch: Callable[[str, Tensor], None] | None = None
        self.post_init()

    def _branch(self, layers: nn.ModuleList) -> nn.ModuleList:
        """The K layers of one branch: copies, or low-rank differences."""
        if not self.config.branch_rank:
            return copy.deepcopy(layers)
        return nn.ModuleList(LowRankLayer(layer, self.config.branch_rank) for layer in layers)

    def _vector(self) -> nn.Parameter:
        """A mixer vector. Zero gives uniform weights, so step 0 equals the base model exactly (decision 2)."""
        return nn.Parameter(torch.zeros(self.config.mixer_length))

    def _linear(self) -> nn.Linear:
        return nn.Linear(self.encoder.config.hidden_size, self.config.num_labels)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LowRankLayer):
            module.start()
        elif isinstance(module, nn.ParameterList) and module and module[0].ndim > 1:
            return  # parameters of a low-rank layer, set above
        vectors = [self.outer] if module is self and self.outer is not None else []
        for v in [*vectors, *(module if isinstance(module, nn.ParameterList) else [])]:
            init.zeros_(v)

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved student, or build one from a pre-trained encoder's hub id or folder, with a new head, in fp32.

        kwargs: transformers' arguments; for an encoder, arguments that locate it (`revision`, `token`, ...) and fields
        of MBLMConfig, usually `branch_languages` and `branch_depth`. Raises UserError for an unsupported encoder.
        """
        where = {name: kwargs[name] for name in WHERE if name in kwargs}
        if "config" in kwargs or backbones.configuration(path, where).model_type == MBLMConfig.model_type:
            return super().from_pretrained(path, *args, **kwargs)
        encoder = backbones.load(path, where)
        fields = {name: value for name, value in kwargs.items() if name not in where}
        return cls(MBLMConfig(encoder.config.to_dict(), **fields), encoder)

    def get_input_embeddings(self) -> nn.Module:
        """Return the word vectors."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word vectors."""
        self.encoder.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize as transformers does, and update the backbone's configuration, which a saved model is built from."""
        found = super().resize_token_embeddings(*args, **kwargs)
        self.encoder.config.vocab_size = self.config.backbone["vocab_size"] = found.num_embeddings
        return found

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        language: str | None = None,
        return_states: bool = False,
        **others: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, C) of a batch of token ids (B, n).

        attention_mask: (B, n), 1 at tokens and 0 at padding. None: no padding, and attention runs without a mask.
        language: of the batch. Selects the branch that is trained (Eq. 8) and, in some structures, the branch or head
        that computes the logits. None, or a language without a branch, is zero-shot. A calibrated model divides the
        logits outside of training by the language's temperature, or by the overall one if the language has none.
        return_states: also return the states after the embeddings and each of the L layers: (B, n, d), or (B, 1, d)
        of a last layer that computes only the first position. A branched layer gives the state of the own branch.
        Raises ValueError for requests of hidden states or attentions: a branched layer has several.
        """
        refuse_unanswered(self.config, others)
        if self.branches and input_ids.shape[1] > self.config.mixer_length:
            raise ValueError(
                f"a batch of {input_ids.shape[1]} tokens does not fit mixers of {self.config.mixer_length}; truncate it"
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.family.embed(self.encoder, input_ids, token_type_ids, mask)  # Eq. 5: (B, n, d)
        run = self.family.layer(self.encoder, hidden, attention_mask)
        names, kept = self.answering, [hidden]
        own = names.index(language) if language in names and self.branches else None
        if return_states and self.branches and own is None:
            raise ValueError("return_states needs a language with a branch: states are those of the own branch")

        if not self.branches or self.config.branch_position == "top":
            hidden = self._through_shared(hidden, run, kept)
        if self.branches:
            states = self._branches(hidden, mask, own, run, kept)
            if self.heads:
                logits = self._own_heads(states, own)
            else:
                hidden = self._combine(states, mask, own)
                if self.config.branch_position == "bottom":
                    hidden = self._through_shared(hidden, run, kept)
        if not self.heads:
            logits = self._logits(self.head, hidden)
        temperature = temperature_of(self.config, language)
        if temperature is not None and not self.training:
            logits = logits.float() / temperature  # in 16 bit, two labels could become equal
        loss = label_loss(self, logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=tuple(kept) if return_states else None)

    @property
    def answering(self) -> list[str]:
        """Languages for which the own branch computes the logits."""
        return self.config.branch_languages

    def _through_shared(self, hidden: Tensor, run: backbones.Layer, kept: list[Tensor]) -> Tensor:
        for layer in self.shared:
            hidden = run(layer, hidden)  # Eq. 6
            kept.append(hidden)
        return hidden

    def _branches(
        self, hidden: Tensor, mask: Tensor, own: int | None, run: backbones.Layer, kept: list[Tensor]
    ) -> dict[int, Tensor]:
        """Outputs H~_K of the branches at their last layer (Eq. 7-9), by branch, for the branches that are needed."""
        wanted = self._wanted(own)
        states = dict.fromkeys(wanted, hidden)
        for depth in range(self.config.branch_depth):
            outputs = {}
            for i in wanted:
                with self._grad(i, own):  # Eq. 8: without a graph, which gives the gradients of a detach
                    layer = self.branches[i][depth]
                    if not self.config.idle_dropout:
                        layer.train(self.training and own in (None, i))
                    outputs[i] = run(layer, states[i])  # Eq. 7
            states = outputs
            if own is not None:
                kept.append(outputs[own])
            if self.config.mixers == "all" and depth < self.config.branch_depth - 1:
                stacked = torch.stack(list(outputs.values()))  # (N, B, n, d)
                states = {}
                for i in wanted:
                    with self._grad(i, own):
                        name = f"inner {depth + 1}, {self.config.branch_languages[i]}"
                        states[i] = self._mix(name, stacked, self.inner[i][depth], mask)  # Eq. 9
        return states

    def _wanted(self, own: int | None) -> list[int]:
        """Branches that run: all; without mixers, a training batch passes through its own branch only."""
        alone = self.config.mixers == "none" and (self.training or self.config.inference == "single")
        return [own] if alone and own is not None else list(range(len(self.branches)))

    def _grad(self, i: int, own: int | None) -> Any:
        """Disable the graph for a branch that is not trained on this batch (Eq. 8)."""
        idle = self.config.detach and own is not None and i != own
        return torch.no_grad() if idle else nullcontext()

    def _combine(self, states: dict[int, Tensor], mask: Tensor, own: int | None) -> Tensor:
        """One state (B, n, d) for the following layers: the outer mixer, or else the mean of the branches."""
        if self.outer is not None:
            return self._mix("outer", torch.stack(list(states.values())), self.outer, mask)
        return self._mean(list(states.values()))

    def _mean(self, values: list[Tensor]) -> Tensor:
        """The mean over the branches that ran."""
        return torch.stack(values).mean(dim=0)

    def _mix(self, name: str, states: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Mix the branches' states (N, B, n, d) into one (B, n, d)."""
        if self.watch is not None:
            self.watch(name, mixer.weights(states, v, mask))
        return mixer.mix(states, v, mask)

    def _own_heads(self, states: dict[int, Tensor], own: int | None) -> Tensor:
        """Logits (B, C) of the multi-classifier: the own head, or the mean over heads for a zero-shot language."""
        if own is not None:
            return self._logits(self.heads[own], states[own])
        return self._mean([self._logits(self.heads[i], state) for i, state in states.items()])

    def _logits(self, head: Any, hidden: Tensor) -> Tensor:
        first = self.dropout(self.family.finish(self.encoder, hidden)[:, 0])  # (B, d): first position of H_L
        with without_autocast(first.device):  # one position per text: full precision is cheap
            return head(first.to(head.weight.dtype))


def encoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Layers of a student, including all branches; of any other classifier, its longest list of modules."""
    if isinstance(model, MBLMForSequenceClassification):
        return [*chain.from_iterable(model.branches), *model.shared]
    lists = [list(each) for each in model.modules() if isinstance(each, nn.ModuleList)]
    return max(lists, key=len)


def label_loss(model: PreTrainedModel, logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Loss of labels as in transformers: cross-entropy, or the loss for the configuration's problem_type."""
    return None if labels is None else model.loss_function(labels, logits.float(), model.config)


def refuse_unanswered(config: PreTrainedConfig, asked: dict[str, Any]) -> None:
    """Raise ValueError for outputs of transformers' classifiers that our models do not return."""
    for name in ("output_hidden_states", "output_attentions"):
        wanted = asked.get(name)
        if getattr(config, name) if wanted is None else wanted:
            raise ValueError(f"{name}: not available, because each branch or member has its own; set it to False")


AutoModelForSequenceClassification.register(MBLMConfig, MBLMForSequenceClassification, exist_ok=True)
