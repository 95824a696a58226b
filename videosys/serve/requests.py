"""Validates a client's request and applies it to the service's config."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from videosys.generation.config import PipelineConfig, loading_fields
from videosys.models import family_of
from videosys.serve.settings import Limits
from videosys.utils.foreign import foreign_name
from videosys.utils.plain import WRONG_NUMBERS, Place, build, to_plain
from videosys.utils.seed import LARGEST_SEED, draw_seed
from videosys.utils.typed import listing, shown, suggest

SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\w.~-]*[/\\])+([\w.~-]*)")
# Config fields that a client must not set: the service generates one video per request.
FIXED = frozenset({"num_videos_per_prompt", "batch_size"})
NAMES_OF_SIZES = ("resolution", "aspect_ratio")
STANDS_FOR: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "num_frames": ("frames", "seconds"),
        "frames": ("num_frames", "seconds"),
        "height": ("size",),
        "width": ("size",),
        "cache": ("speedup", "min_psnr"),
    }
)
OWN_KEYS = ("frames", "min_psnr", "model", "prompt", "seconds", "size", "speedup")


class BadRequest(ValueError):
    """An invalid request. param: the invalid key, if the error is about one key."""

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.param = param


def local_fields(config_cls: type) -> frozenset[str]:
    """The fields declared as paths of local files, which clients must not set."""
    return frozenset(item.name for item in dataclasses.fields(config_cls) if item.metadata.get("local"))


def allowed_fields(config_cls: type) -> list[str]:
    """The config fields that a client may set."""
    fields = {item.name for item in dataclasses.fields(config_cls) if item.init}
    return sorted(fields - loading_fields(config_cls) - local_fields(config_cls) - FIXED)


def of_one_video(config: PipelineConfig) -> Any:
    """The config for one video per request."""
    return dataclasses.replace(config, num_videos_per_prompt=1, batch_size=1)


def changed(base: PipelineConfig, changes: Mapping[str, Any]) -> Any:
    """The config with a client's changes. BadRequest for invalid values."""
    try:
        return build(type(base), [changes], base, Place("", ""))
    except (ValueError, *WRONG_NUMBERS) as error:
        message = without_paths(str(error))
        param = next((key for key in changes if message.startswith(key)), named_key(message, changes))
        raise BadRequest(message, param) from error


def own_key(param: str | None, body: Mapping[str, Any]) -> str | None:
    """The key of a body for a config field, such as `size` for `height`; None if there is none."""
    names = STANDS_FOR.get(param or "", ()) if param not in body else ()
    return next((name for name in names if name in body), param)


def without_paths(text: str) -> str:
    """The text on one line, with each path shortened to its last component."""
    return PATH.sub(lambda match: match[1] or "...", " ".join(text.split()))


@dataclasses.dataclass(frozen=True)
class VideoRequest:
    """A checked request. changes: config fields, including the seed. config: the config with these
    changes.
    """

    prompt: str
    changes: dict[str, Any]
    config: Any


class Checker:
    """Checks requests against a service's config and limits, without loading a model."""

    def __init__(self, config: PipelineConfig, limits: Limits):
        """ValueError for a config that cannot run here."""
        self.config, self.limits = of_one_video(config), limits
        self.family = family_of(config)
        self.pipeline = self.family.build(config, quiet=True)
        self.allowed = allowed_fields(type(config))

    @property
    def model(self) -> str:
        """The name of the service's model."""
        return self.family.name

    def check(self, body: Mapping[str, Any]) -> VideoRequest:
        """The checked request of a body. BadRequest, with the invalid key, if it cannot be accepted."""
        try:
            return self._checked(body)
        except BadRequest as error:
            error.param = own_key(error.param, body)
            raise

    def _checked(self, body: Mapping[str, Any]) -> VideoRequest:
        prompt = self._prompt(body.get("prompt"))
        model = body.get("model", self.model)
        if model != self.model:
            raise BadRequest(f"model is {model!r}; this service has: {listing([self.model])}", "model")
        changes = self._changes(body)
        config = changed(self.config, changes)
        seed = draw_seed() if config.seed is None else config.seed
        if not 0 <= seed <= LARGEST_SEED:
            raise BadRequest(f"seed is {seed}; it must be 0 to {LARGEST_SEED}", "seed")
        plain = to_plain(config)
        changes = {name: plain[name] for name in changes} | {"seed": seed}
        config = dataclasses.replace(config, seed=seed)
        self._check_limits(config)
        self._check_run(prompt, config, body)
        return VideoRequest(prompt, changes, config)

    def _prompt(self, prompt: Any) -> str:
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadRequest("prompt must be text and not blank", "prompt")
        if len(prompt) > self.limits.prompt:
            text = f"prompt has {len(prompt)} characters; the limit is {self.limits.prompt}"
            raise BadRequest(text, "prompt")
        if "\x00" in prompt or any("\ud800" <= sign <= "\udfff" for sign in prompt):
            raise BadRequest("prompt has invalid characters", "prompt")
        return str(prompt)

    def _changes(self, body: Mapping[str, Any]) -> dict[str, Any]:
        changes = {key: value for key, value in body.items() if key not in OWN_KEYS}
        for key in changes:
            if key not in self.allowed:
                raise BadRequest(self._unknown(str(key)), str(key))
        self._check_cache(changes.get("cache"))
        return changes | self._size(body) | self._frames(body) | self._goal(body)

    def _unknown(self, key: str) -> str:
        """The message for a key that requests do not have."""
        known = [*OWN_KEYS, *self.allowed]
        if key in FIXED:
            hint = " (a request makes one video)"
        elif key in {item.name for item in dataclasses.fields(self.config)}:
            hint = " (a setting of the server, which a request cannot change)"
        else:
            hint = foreign_name(key, known) or suggest(key, known)
        return f"unknown key {key!r}{hint}; allowed: {listing(known)}"

    def _check_cache(self, cache: Any) -> None:
        """BadRequest for cache settings that name a local file."""
        choices = self.family.caches.values() if isinstance(cache, Mapping) else ()
        classes = {choice if isinstance(choice, type) else type(choice) for choice in choices}
        local = {name for cls in classes for name in local_fields(cls)}
        for name in sorted(local.intersection(cache or ())):
            raise BadRequest(f"cache.{name} cannot be set by a request", "cache")

    def _size(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if "size" not in body:
            return {}
        match = SIZE.fullmatch(str(body["size"]))
        if match is None:
            raise BadRequest(f"size is {shown(body['size'])}; it must be WIDTHxHEIGHT in pixels", "size")
        names = {name: None for name in NAMES_OF_SIZES if name in self.allowed}
        return {"width": int(match[1]), "height": int(match[2]), **names}

    def _frames(self, body: Mapping[str, Any]) -> dict[str, Any]:
        given = [key for key in ("seconds", "frames", "num_frames") if key in body]
        if len(given) > 1:
            raise BadRequest(f"set only one of {listing(given)}", given[0])
        kind = "number" if "seconds" in body else "whole number"
        try:
            if "seconds" in body:
                return {"num_frames": frames_of(float(body["seconds"]), self.config.fps)}
            return {"num_frames": int(str(body["frames"]))} if "frames" in body else {}
        except (TypeError, ValueError, OverflowError):
            raise BadRequest(
                f"{given[0]} is {shown(body[given[0]])}; it must be a {kind} above 0", given[0]
            ) from None

    def _goal(self, body: Mapping[str, Any]) -> dict[str, Any]:
        goal = {key: body[key] for key in ("speedup", "min_psnr") if key in body}
        if goal and "cache" in body:
            raise BadRequest(f"set either cache or {' and '.join(goal)}", "cache")
        calibration = getattr(self.config.cache, "calibration", None)
        return {"cache": {"name": "best", "calibration": calibration, **goal}} if goal else {}

    def _check_limits(self, config: Any) -> None:
        height, width = config.size
        if height * width > self.limits.pixels:
            text = f"size is {width}x{height}; the limit is {self.limits.pixels} pixels"
            raise BadRequest(text, "size")
        if config.steps > self.limits.steps:
            text = f"num_inference_steps is {config.steps}; the limit is {self.limits.steps}"
            raise BadRequest(text, "num_inference_steps")
        if config.output_frames > self.limits.frames:
            text = f"the video would have {config.output_frames} frames; the limit is {self.limits.frames}"
            raise BadRequest(text, "frames")

    def _check_run(self, prompt: str, config: Any, body: Mapping[str, Any]) -> None:
        """BadRequest for values that the pipeline would reject later."""
        default = None
        try:
            self.pipeline.check_parallel(config)
            self.pipeline.check_request([prompt], config)
            default = "cache"
            self.pipeline.with_resolved_cache(config)
        except ValueError as error:
            message = without_paths(str(error))
            raise BadRequest(message, named_key(message, body) or default) from error


def named_key(message: str, body: Mapping[str, Any]) -> str | None:
    """The first key of a body that occurs as a word in a message, itself or through a nested key."""
    words = {*re.findall(r"\w+", message)}
    for key, value in body.items():
        if words & {key, *(value if isinstance(value, Mapping) else ())}:
            return key
    return None


def frames_of(seconds: float, fps: float) -> int:
    """The number of frames in this many seconds, 1 or more. ValueError unless seconds is above 0."""
    if not seconds > 0:
        raise ValueError("seconds must be above 0")
    return max(1, round(seconds * fps))
