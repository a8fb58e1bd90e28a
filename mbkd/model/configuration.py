"""The structure of a student, and what an ensemble consists of, as transformers configurations.

Making one imports its model, which registers itself then: see mbkd/registration.py.
"""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from mbkd.config import structures
from mbkd.errors import UserError


class MBLMConfig(PreTrainedConfig):
    """The structure of a student; every structure of the paper is a value of these fields.

    backbone          the encoder's own configuration as a dict (its `model_type` names the family)
    branch_languages  the N languages that have a branch, in the order of the branches
    branch_depth      K, 0 (the plain encoder) to L
    mixer_length      entries of each mixer vector
    branch_rank       r > 0: a branch is the shared layers and a difference of rank r in each linear map; 0: copies
    branch_position   "bottom" (Fig 2) or "top" (Fig 4c, 4d)
    mixers            "all"; "outer" is `- inner-mixers` (Fig 4a); "none" is `- all mixers` (Fig 4b)
    heads             "shared", or "per_language" for the multi-classifier (Fig 4d): no outer mixer then
    inference         without mixers: "all" averages the branches, "single" lets a supervised
                      language use its own branch alone
    detach            Eq. 8; False is `- detaching`
    idle_dropout      whether dropout is on in the branches that do not learn (decision 9)
    calibration_temperature
                      what the logits are divided by outside of training, so that their softmax says how often the
                      model is right (mbkd/evaluate/calibration.py); None: nothing, the model is not calibrated
    """

    model_type = "mblm"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        branch_languages: list[str] | tuple[str, ...] = (),
        branch_depth: int = 0,
        mixer_length: int = 128,
        branch_rank: int = 0,
        branch_position: str = "bottom",
        mixers: str = "all",
        heads: str = "shared",
        inference: str = "all",
        detach: bool = True,
        idle_dropout: bool = True,
        calibration_temperature: float | None = None,
        **kwargs: Any,
    ):
        self.backbone = backbone or {"model_type": "xlm-roberta"}
        self.branch_languages = list(branch_languages)
        self.branch_depth = branch_depth
        self.mixer_length = mixer_length
        self.branch_rank = branch_rank
        self.branch_position = branch_position
        self.mixers = mixers
        self.heads = heads
        self.inference = inference
        self.detach = detach
        self.idle_dropout = idle_dropout
        self.calibration_temperature = calibration_temperature
        structures.check(branch_position, mixers, heads, inference)
        if branch_depth and not self.branch_languages:
            raise UserError(f"branch_depth = {branch_depth} needs branch_languages")
        if len(set(self.branch_languages)) < len(self.branch_languages):
            raise UserError(f"branch_languages names one twice: {', '.join(self.branch_languages)}")
        super().__init__(**kwargs)
        import_module("mbkd.model.mblm")

    @property
    def backbone_config(self) -> PreTrainedConfig:
        """The encoder's configuration as transformers' own object."""
        return AutoConfig.for_model(**self.backbone)


class EnsembleConfig(PreTrainedConfig):
    """Classifiers of the same labels that answer together; `members` are their own configurations as dicts.

    calibration_temperature: as in MBLMConfig; the members' raw logits are averaged, and the mean is divided.
    """

    model_type = "mbkd-ensemble"

    def __init__(
        self,
        members: list[dict[str, Any]] | tuple[dict[str, Any], ...] = (),
        calibration_temperature: float | None = None,
        **kwargs: Any,
    ):
        self.members = list(members)
        self.calibration_temperature = calibration_temperature
        super().__init__(**kwargs)
        import_module("mbkd.ensemble.model")

    @property
    def member_configs(self) -> list[PreTrainedConfig]:
        """The members' configurations as transformers' own objects."""
        return [AutoConfig.for_model(**member) for member in self.members]


AutoConfig.register("mblm", MBLMConfig, exist_ok=True)
AutoConfig.register("mbkd-ensemble", EnsembleConfig, exist_ok=True)
