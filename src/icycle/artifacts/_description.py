"""What `structure.json` may say: read with a limit on its size, checked against a schema and its own checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from icycle.errors import ArtifactError

__all__ = ["VERSION", "Description", "EditRecord", "read_description"]

VERSION: Final = 3
_MAX_BYTES = 32 * 2**20  # the largest model known needs less than one MiB

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1, lt=2**63)]
Number = Annotated[int, Field(ge=-1, lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)  # strict: a bool is no int


class EditRecord(_Strict):
    """The fields of a `tracing.Edit`."""

    functions: Annotated[list[str], Field(min_length=1)]
    span: Annotated[list[int], Field(min_length=4, max_length=4)]
    number: Number
    digest: Digest
    keyword: Literal["", "scale", "flatten"]
    calls: list[Annotated[list[int], Field(min_length=4, max_length=4)]] = []


class Description(_Strict):
    """`attributes` are those that removals have changed, by module; in a tuple or list None stands for what they have
    not. `inputs` says what the model was traced on. `checksum` is that of all the rest."""

    format: Literal["icycle model"]
    version: Literal[3]
    sha256: Digest
    model: str
    attributes: dict[str, dict[str, Size | list[Size | None]]]
    edits: dict[str, list[EditRecord]]
    channels_last: list[str]
    inputs: str | None = None
    checksum: str = ""

    def sealed(self) -> str:
        """The text to write, its checksum within."""
        content = self.model_dump(exclude={"checksum"})
        return json.dumps({**content, "checksum": _checksum(content)}, indent=1)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_description(file: Path) -> Description:
    """Raises ArtifactError for anything that `save` would not have written."""
    if file.stat().st_size > _MAX_BYTES:
        raise ArtifactError(f"Expected {file} to have at most {_MAX_BYTES} bytes, but it has {file.stat().st_size}.")
    try:
        content = json.loads(file.read_bytes(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"Expected JSON in {file}, but it is damaged ({error}). Save the model again.") from None
    if not isinstance(content, dict) or content.get("format") != "icycle model":
        raise ArtifactError(f"Expected {file} to describe a model saved by icycle, but it does not.")
    if content.get("version") != VERSION:
        raise ArtifactError(
            f"Expected version {VERSION} in {file}, but got {str(content.get('version'))[:40]}. Load it with the "
            "icycle that saved it, and save it again with this one."
        )
    missing = Description.model_fields.keys() - content.keys()
    if missing:
        raise ArtifactError(f"Expected {sorted(missing)} in {file}, but they are missing. Save the model again.")
    try:
        found = Description.model_validate(content)
    except (ValidationError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "it is too deep"}
        where = ".".join(str(part)[:80] for part in first["loc"])
        raise ArtifactError(
            f"Expected {file} to be as icycle.save writes it, but {where or 'it'} is damaged: {first['msg']}."
        ) from None
    if _checksum({key: value for key, value in content.items() if key != "checksum"}) != found.checksum:
        raise ArtifactError(f"Expected {file} to have the checksum that it states, but it was damaged or changed.")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
