"""Student structures of the paper (Fig 2-4): field values, valid combinations, and names in Table 5."""

from mbkd.errors import UserError

VALUES = {
    "branch_position": ("bottom", "top"),
    "mixers": ("all", "outer", "none"),
    "heads": ("shared", "per_language"),
    "inference": ("all", "single"),
}

# The plain model's values of the fields of `student` that describe branches.
PLAIN = {
    "branch_depth": 0,
    "branch_rank": 0,
    "branch_position": "bottom",
    "mixers": "all",
    "heads": "shared",
    "inference": "all",
    "detach": True,
    "idle_dropout": True,
}


def check(branch_position: str, mixers: str, heads: str, inference: str) -> None:
    """Raise UserError for a value or a combination of values that no structure of the paper has."""
    given = {"branch_position": branch_position, "mixers": mixers, "heads": heads, "inference": inference}
    for field, value in given.items():
        if value not in VALUES[field]:
            raise UserError(f"{field} = {value!r}: must be one of {', '.join(VALUES[field])}")
    if heads == "per_language" and (branch_position == "bottom" or mixers == "outer"):
        raise UserError("heads = 'per_language' needs branch_position = 'top' and no outer mixer")
    if inference == "single" and mixers != "none":
        raise UserError("inference = 'single' needs mixers = 'none', because mixers combine all branches")


def name(branch_position: str, mixers: str, heads: str, inference: str, detach: bool) -> str:
    """Return Table 5's name for the differences from the full MBLM, such as ` - inner-mixers`, or ""."""
    own_heads = heads == "per_language"
    parts = {
        " + multi-classifier": own_heads,
        " + branches at the top": branch_position == "top" and not own_heads,
        " - inner-mixers": mixers == "outer",
        f" - all mixers ({inference})": mixers == "none",
        " - detaching": not detach,
    }
    return "".join(part for part, holds in parts.items() if holds)
