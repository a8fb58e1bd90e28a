"""Upload a trained model's folder and its model card to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, HTTPError  # HTTPError: of the HTTP client of this hub version
from huggingface_hub.utils import validate_repo_id

from mbkd.data.readers import one_line
from mbkd.errors import UserError
from mbkd.model import card, saved


def push(model: Path, repo_id: str, private: bool, licence: str | None, dry_run: bool) -> dict[str, int]:
    """Upload a model's folder. licence: replaces the licence in the uploaded card. Raises UserError.

    Returns the size in bytes of each uploaded file by name; with dry_run, of each file that would be uploaded.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r}: not a repository name such as me/my-model ({error})") from None
    files = additions(saved.folder(model), licence)
    if not dry_run:
        api = HfApi()
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.create_commit(repo_id, files, commit_message="Model trained with mbkd")
        except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: a file upload failed
            reason = one_line(error)
            raise UserError(
                f"{repo_id}: not uploaded ({reason}); check the network connection, and log in with `hf auth login`"
            ) from None
    return {file.path_in_repo: file.upload_info.size for file in files}


def additions(folder: Path, licence: str | None) -> list[CommitOperationAdd]:
    """The folder's files as a commit, without hidden files. Raises UserError if there is no card."""
    readme = folder / "README.md"
    if not readme.is_file():
        raise UserError(f"{folder}: no README.md; `mbkd train` writes one next to the model, or write your own")
    contents: dict[str, str | bytes] = {
        str(file.relative_to(folder)): str(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }
    if licence is not None:
        contents["README.md"] = card.with_licence(readme.read_text(encoding="utf-8"), licence).encode()
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
