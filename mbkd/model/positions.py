"""How many tokens a model takes, from its configuration as config.json has it; no torch.

The limit is `max_position_embeddings`, for rotary and relative positions too: such a model runs beyond it, but its
weights have seen nothing there. Who extends one says so in its config.json, and is not refused.
"""

from typing import Any

from mbkd.data.classifiers import configuration
from mbkd.data.readers import one_line
from mbkd.errors import UserError

# They count positions from the padding's id on: XLM-R's 514 are 512 tokens.
FROM_PADDING = (
    "camembert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def of_model(path: str) -> int | None:
    """The most tokens that the model at a folder or hub id takes; None: any number. Raises UserError if it is none."""
    try:
        return of(configuration(path))
    except (AttributeError, KeyError, TypeError) as error:  # values that no such model has
        raise UserError(f"{path}: no model here ({one_line(error)})") from None


def of(values: dict[str, Any]) -> int | None:
    """The most tokens that a model with these values of its configuration takes, None for any number."""
    kind = values.get("model_type")
    if kind == "mblm":
        mixers = values["mixer_length"] if values["branch_depth"] else None
        return _least(of(values["backbone"]), mixers)
    if kind == "mbkd-ensemble":
        return _least(*map(of, values["members"]))
    positions: int | None = values.get("max_position_embeddings", values.get("n_positions"))  # GPT-2 says n_positions
    if positions is None or positions < 0:  # XLNet says -1
        return None
    if kind in FROM_PADDING:
        padding = values.get("pad_token_id")
        return positions - (1 if padding is None else padding) - 1
    return positions


def _least(*lengths: int | None) -> int | None:
    return min((x for x in lengths if x is not None), default=None)
