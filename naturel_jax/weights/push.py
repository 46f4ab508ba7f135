"""Publishes an exported folder on the Hugging Face hub, through ``huggingface_hub``.

The token comes from ``HF_TOKEN`` or ``hf auth login`` and never appears in a log or message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from naturel_jax.storage.hub import Unusable, check_address, httpx, without_xet
from tfds_naturel.common.addresses import without_logins
from tfds_naturel.common.errors import UserError

SILENCE, COMMIT = 30, 600  # seconds that the hub may be silent; it is slow to answer a commit of large files
_EXPLANATIONS = {
    401: "the hub does not accept the token; run `hf auth login`, or set HF_TOKEN to a valid one",
    403: "the token may not write there; use one with write access to {owner}",
    404: "no such user or organization, or the token may not write there",
}


def check(repository: str, *, dry_run: bool) -> None:
    """Raises UserError if ``repository`` is not ``owner/name``, or if there is no token to write with."""
    try:
        validate_repo_id(repository)
        valid = repository.count("/") == 1  # the library also takes a name without an owner
    except HFValidationError:
        valid = False
    if not valid:
        allowed = "of letters, digits, '-', '_' and '.', at most 96 characters, without '--' and '..'"
        raise UserError(f"--push {repository!r}: not a repository of the hub; expected owner/name, {allowed}")
    if not dry_run and huggingface_hub.get_token() is None:
        raise UserError(f"--push {repository}: there is no token; run `hf auth login`, or set HF_TOKEN")


def files(folder: Path) -> dict[str, int]:
    """The files that ``push`` uploads, with their sizes in bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads ``folder`` as one commit to the model repository, which is created (``private``: not public) if there is
    none; returns its address. Raises UserError, in one line, if that fails, and before anything is uploaded, for a
    public one with ``private``; the folder stays."""
    before = huggingface_hub.get_session().event_hooks
    hooks = before | {"request": [*before["request"], check_address, _wait_for_commit]}
    timeout = httpx.Timeout(SILENCE, connect=10)
    huggingface_hub.set_client_factory(lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=timeout))
    api = huggingface_hub.HfApi()
    with _explained(folder, repository), without_xet():  # by Xet, it would be several commits
        # None leaves the choice to the settings of an organization, False would override them.
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.repo_info(repository).private:  # the library ignores the wish if there is one already
            raise UserError(
                f"--push {repository} --private: there is a public repository of this name; nothing was uploaded. "
                "Choose another, make it private in its settings on the hub, or leave out --private"
            )
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload with naturel_jax")
    return without_logins(str(url))


def _wait_for_commit(request: httpx.Request) -> None:
    if request.method == "POST" and "/commit/" in request.url.path:
        request.extensions["timeout"] = {**request.extensions["timeout"], "read": COMMIT}


@contextmanager
def _explained(folder: Path, repository: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # RuntimeError: one of several uploads failed.
    except (httpx.HTTPError, Unusable, OSError, ValueError, RuntimeError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            explained = _EXPLANATIONS.get(error.response.status_code, detail)
            detail = explained.format(owner=repository.partition("/")[0]) if explained is not detail else detail
        raise UserError(
            without_logins(f"--push {repository}: {constants.ENDPOINT}: {detail}. ")
            + f"{folder} is complete: `hf upload {repository} {folder}` uploads it"
        ) from error
