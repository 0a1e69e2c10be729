"""How a backend's records are written: the options, documented under each field."""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from observability.fields import NAMES
from observability.instrument.retention import Retention, Share

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class LoggingConfig(BaseModel):
    """How records are written: for all of an instance at `serve.start`, or for one backend.

    A backend's own configuration goes before the instance's, field by field. Fields that are set
    nowhere are read from the environment (`TAGTRAIL_LOG_LEVEL`, `TAGTRAIL_LOG_ENCODING`, ...; see
    `serve/settings.py`), else the defaults hold.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    level: str = "INFO"
    """Least level of the records that are written: DEBUG, INFO, WARNING, ERROR or CRITICAL."""

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    """Form of the copy on stderr. TEXT: Ray Serve 1.3's line. The segments are always JSON."""

    stderr: bool = True
    """Whether the `ray` logger, the user's and libraries' loggers are copied to stderr, which Ray
    shows on the driver and keeps in `worker-*.err`. Access records never are."""

    access_log: bool = True
    """Whether each request leaves an access record."""

    client_address: bool = False
    """Whether access records tell the client's address."""

    extra_fields: dict[str, Any] = {}
    """Put on every record, `{"team": "search"}` for instance. Tagtrail's own names are refused."""

    segment_bytes: int = Field(default=64 * 1024 * 1024, ge=4096)
    """A segment that has reached this size is full, and the next one is begun."""

    max_age_s: float = Field(default=7 * 24 * 3600.0, gt=0)
    """Segments that are not written to any more are deleted after this, seconds. A backend's own:
    its segments, and no others."""

    max_total_bytes: int = Field(default=2 * 1024 * 1024 * 1024, ge=4096)
    """Above this size of all segments of a node, the oldest ones are deleted. A backend's own: of
    that backend's segments on a node, within what the instance allows."""

    _whole: LoggingConfig | None = PrivateAttr(None)

    @field_validator("level", mode="before")
    @classmethod
    def _check_level(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            value = logging.getLevelName(value)
        name = value.upper() if isinstance(value, str) else value
        if name not in LEVELS:
            raise ValueError(f"Level {value!r} is not known. Expected one of {', '.join(LEVELS)}.")
        return name

    @field_validator("encoding", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("extra_fields")
    @classmethod
    def _check_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(value) & NAMES)
        if taken:
            raise ValueError(
                f"extra_fields can't be named {taken}: records have fields of that name. Choose "
                "other names. All names taken are in observability/fields.py."
            )
        return value

    @property
    def level_number(self) -> int:
        """The level as `logging` counts them."""
        number: int = getattr(logging, self.level)
        return number

    @property
    def retention(self) -> Retention:
        """The limits of the segments."""
        whole = self._whole
        if whole is None:
            return Retention(self.segment_bytes, self.max_age_s, self.max_total_bytes)
        share = Share(self.max_age_s, self.max_total_bytes)
        return Retention(self.segment_bytes, whole.max_age_s, whole.max_total_bytes, share)

    def over(self, base: LoggingConfig) -> LoggingConfig:
        """This configuration's set fields, and `base` for the others."""
        return LoggingConfig(**(set_fields(base) | set_fields(self)))

    def within(self, instance: LoggingConfig) -> LoggingConfig:
        """`over`, for a backend: its limits are a share of what the instance keeps on a node."""
        merged = self.over(instance)
        merged._whole = instance
        return merged


def set_fields(config: LoggingConfig) -> dict[str, Any]:
    """The fields that were set, not defaulted."""
    return {name: getattr(config, name) for name in config.model_fields_set}
