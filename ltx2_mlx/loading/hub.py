"""Weights by path, or by their name on Hugging Face through its cache (``HF_HOME`` says where that is)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from math import prod
from pathlib import Path
from typing import Any

from ..errors import HubError
from .header import TensorInfo, Tensors, bits

GEMMA_PATTERNS = ("*.safetensors", "*.json", "tokenizer.model", "chat_template.jinja")
_NAME = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}(?<!\.safetensors)")
_FILE = re.compile(rf"({_NAME}/{_NAME})/((?:[^/.][^/]*/)*[^/.][^/]*\.safetensors)")

_ADDRESS = re.compile(
    rf"(?:https?|hf)://(?:[\w.-]+\.[a-z]+/)?({_NAME}/{_NAME})/?(?:(?:resolve|blob|tree)/[^/]+/?)?(.*)"
)


def expanded(path: str | Path) -> Path:
    """The path, with a user's home for ``~``. Raises HubError for a user that is not known here."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise HubError(f"{path}: no such user on this machine") from None


def on_hub(reference: str | Path, patterns: Sequence[str] | None = None) -> bool:
    """True for what is no path here and has the form of a name on Hugging Face; the arguments are those of resolve."""
    forms = (_FILE,) if patterns is None else (_FILE, _REPOSITORY)
    return not expanded(reference).exists() and any(form.fullmatch(str(reference)) for form in forms)


def resolve(reference: str | Path, patterns: Sequence[str] | None = None, download: bool = True) -> Path:
    """The file or folder on this machine that ``reference`` names, downloaded if need be and if ``download`` allows it.

    A path that exists is taken as it is. Otherwise ``owner/name/file.safetensors`` is a file of a repository; where
    ``patterns`` are given (GEMMA_PATTERNS for Gemma) ``owner/name`` is also a folder, of those of its top-level files
    that match one. Without patterns a repository is not fetched: LTX-2's holds hundreds of gigabytes. Raises HubError.
    """
    path = expanded(reference)
    if path.exists():
        return path
    name = str(reference)
    if os.path.lexists(path):
        raise HubError(f"{name}: a link to a file that is not there: download it again, or give the file itself")
    if address := _ADDRESS.match(name):
        file, repository = re.sub(r"[?#].*", "", address[2] or ""), address[1]
        meant = repository if patterns is not None else f"{repository}/{file or 'FILE.safetensors'}"
        raise HubError(f"{name}: an address; give a path, or the name on Hugging Face: {meant}")
    if "://" in name:
        raise HubError(f"{name}: an address; download the file and give its path")
    if match := _FILE.fullmatch(name):
        return _fetch_file(match[1], match[2], download)
    if patterns is None:
        hint = f"; for a file of that repository add its name: {name}/FILE.safetensors"
        hint = hint if _REPOSITORY.fullmatch(name) else ", and the name is not of the form owner/name/file.safetensors"
    else:
        if _REPOSITORY.fullmatch(name):
            return _fetch_folder(name, patterns, download)
        hint = ", and the name is not a repository's, of the form owner/name"
    raise HubError(f"{name}: no such file or folder{hint}")


@dataclass(frozen=True)
class Remote:
    """What Hugging Face holds under a name. size: bytes of a download. metadata, tensors: of the headers of its
    ``.safetensors`` files; no weight is read."""

    size: int
    metadata: dict[str, str]
    tensors: Tensors


def look_up(reference: str, patterns: Sequence[str] | None = None) -> Remote:
    """Read the sizes and headers of what ``resolve`` would download. Nothing is put into the cache. Raises HubError
    where it could not be downloaded either."""
    from huggingface_hub import HfApi

    api = HfApi()
    if match := _FILE.fullmatch(reference):
        with _explained(match[1], match[2], True), _reached():
            header = api.parse_safetensors_file_metadata(match[1], match[2])
        tensors = _tensors(reference, header)
        end = max((info.offset + info.nbytes for info in tensors.values()), default=0)
        return Remote(end, dict(header.metadata), tensors)
    with _explained(reference, "a whole copy of it", True), _reached():
        found = api.model_info(reference, files_metadata=True)
        sizes = {
            file.rfilename: file.size or 0
            for file in found.siblings or ()
            if "/" not in file.rfilename and any(fnmatch(file.rfilename, pattern) for pattern in patterns or ())
        }
        tensors = {}
        for name in sizes:
            if name.endswith(".safetensors"):
                tensors |= _tensors(f"{reference}/{name}", api.parse_safetensors_file_metadata(reference, name))
    return Remote(sum(sizes.values()), {}, tensors)


def _tensors(reference: str, header: Any) -> Tensors:
    """The tensors of a header that huggingface_hub has read."""
    return {
        key: TensorInfo(
            str(info.dtype),
            tuple(info.shape),
            prod(info.shape) * bits(str(info.dtype)) // 8,
            Path(reference),
            key,
            int(info.data_offsets[0]),
        )
        for key, info in sorted(header.tensors.items())
    }


@contextmanager
def _reached() -> Iterator[None]:
    """What the library for connections raises within, which depends on the version, becomes what a download raises."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError:
        raise
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore")):
            raise errors.LocalEntryNotFoundError(str(error)) from error
        raise


def _fetch_file(repository: str, file: str, download: bool) -> Path:
    with _explained(repository, file, download):
        from huggingface_hub import hf_hub_download  # a slow import, needed only to download

        return Path(hf_hub_download(repository, file, local_files_only=not download))


def _fetch_folder(repository: str, patterns: Sequence[str], download: bool) -> Path:
    with _explained(repository, "a whole copy of it", download):
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(
                repository, allow_patterns=list(patterns), ignore_patterns=["*/*"], local_files_only=not download
            )
        )
    if not any(match for pattern in patterns for match in folder.glob(pattern)):
        raise HubError(f"{repository}: the repository has no file like {', '.join(patterns)}")
    return folder


@contextmanager
def _explained(repository: str, what: str, download: bool) -> Iterator[None]:
    """Turn huggingface_hub's errors into ours: what was looked for, why it is not here, and what to do."""
    from huggingface_hub import constants, errors

    endpoint = _without_credentials(constants.ENDPOINT)
    page = f"{endpoint}/{repository}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repository}: the repository is gated. Accept its terms at {page}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{repository}: no such path here, and no such repository at {endpoint}. If it is private, "
            "log in with `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if not download:
            raise HubError(
                f"{repository}: {what} is not in the cache, {constants.HF_HUB_CACHE}; generate downloads it"
            ) from None
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{endpoint} cannot be reached"
        raise HubError(
            f"{repository}: {what} is not in the cache, {constants.HF_HUB_CACHE}, and {offline}. Connect and try "
            "again, or give a path"
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{repository}: the repository has no file {what}; see {page}/tree/main") from error
    except errors.HFValidationError as error:
        raise HubError(f"{repository}: no such path here, and the name is not a repository's: {error}") from error
    except Exception as error:  # what the network and its library's versions raise
        reason = _without_credentials(str(error)).replace(constants.ENDPOINT, endpoint)
        raise HubError(f"{repository}: {what} could not be fetched: {reason}. Try again, or give a path") from None


def _without_credentials(text: str) -> str:
    """The text with neither names and passwords nor tokens in the addresses that it holds."""
    text = re.sub(r"(?<=://)[^/\s@]*@", "", text)
    return re.sub(r"(?i)([?&](?:token|access_token|key|sig|signature|x-amz-[\w-]+)=)[^&\s]+", r"\1…", text)
