"""Checks whether a pipeline can be cached, and identifies it for calibrations, before anything runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from videosys.cache import RunSpec
from videosys.diffusers.swaps import is_swapped
from videosys.parallel import Parallel
from videosys.parallel.mesh import Axis
from videosys.utils.typed import listing

MODELS = ("transformer", "transformer_2", "unet")
CACHE_HOOKS = ("cache", "broadcast")  # in the names of diffusers' modules of hooks that skip work
FLAT = "2D"  # in the names of diffusers' models for images
NOT_NUMBERS = ("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values")


def denoisers(pipe: Any) -> list[nn.Module]:
    """The models of the pipeline that can be cached, without duplicates."""
    parts = (getattr(pipe, part, None) for part in MODELS)
    return list({id(each): each for each in parts if isinstance(each, nn.Module)}.values())


def check_pipeline(pipe: Any) -> list[nn.Module]:
    """The denoising models of the pipeline. ValueError with the reason if they cannot be cached."""
    name = type(pipe).__name__
    if any(cls.__name__ == "ModularPipeline" for cls in type(pipe).__mro__):
        raise ValueError(f"{name} is a modular pipeline; these cannot be cached")
    models = denoisers(pipe)
    if not models:
        raise ValueError(f"{name} has no {' or '.join(MODELS)}; only these models can be cached")
    arguments = inspect.signature(type(pipe).__call__).parameters
    if not any("frame" in argument or "video" in argument for argument in arguments):
        raise ValueError(f"{name} does not generate videos: its call has no argument for frames or a video")
    classes = [type(getattr(each, "_orig_mod", each)).__name__ for each in models]
    images = [each for each in classes if FLAT in each]
    if images:
        raise ValueError(f"{name} does not have a video model: {images[0]} is one for images")
    missing = [part for part in ("set_timesteps", "step") if not hasattr(_scheduler(pipe), part)]
    if missing:
        raise ValueError(f"{name} has no scheduler with {' and '.join(missing)}, needed to count steps")
    if any(map(is_swapped, (pipe, pipe.scheduler, *models))):
        raise ValueError(f"{name}, or a part of it, is already cached; exit the other `cached` first")
    for model in models:
        check_no_other_cache(pipe, model)
    return models


def _scheduler(pipe: Any) -> Any:
    return getattr(pipe, "scheduler", None)


def check_call(pipe: Any, call: Mapping[str, Any], reserved: Collection[str]) -> None:
    """ValueError for arguments that the pipeline's call does not accept, that are reserved, or that are text
    instead of a number.
    """
    name, known = type(pipe).__name__, inspect.signature(pipe.__call__).parameters
    allowed = [each for each in known if each not in reserved]
    is_open = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    for key, value in call.items():
        if key in reserved or (key not in known and not is_open):
            raise ValueError(
                f"{key} is not an argument of {name} that can be set here; allowed: {listing(allowed)}"
            )
        hint = known[key].annotation if key in known else None
        kinds = {*(get_args(hint) or (hint,))} - {type(None)}
        if isinstance(value, str) and kinds and kinds <= {int, float}:
            raise ValueError(f"{key} is {value!r}; it must be a number")


def check_no_other_cache(pipe: Any, model: nn.Module) -> None:
    """ValueError if the model has another cache, of diffusers or cache-dit."""
    hooks = {
        type(hook).__module__.rpartition(".")[2]
        for module in model.modules()
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values()
    }
    others = sorted(hook for hook in hooks if any(word in hook for word in CACHE_HOOKS))
    others += [] if others or not getattr(model, "is_cache_enabled", False) else ["enable_cache"]
    others += [] if not any(getattr(each, "_is_cached", False) for each in (pipe, model)) else ["cache-dit"]
    if others:
        raise ValueError(f"{type(model).__name__} has another cache ({', '.join(others)}); disable it first")


def run_spec(pipe: Any, arguments: Mapping[str, Any] | None = None, reads_weights: bool = True) -> RunSpec:
    """The run, for comparison with calibrations. arguments: of the pipeline's call, if known."""
    arguments = arguments or {}
    given = any(arguments.get(name) is not None for name in ("timesteps", "sigmas"))
    steps, scale = (arguments.get(name) for name in ("num_inference_steps", "guidance_scale"))
    scale = getattr(getattr(pipe, "guider", None), "guidance_scale", None) if scale is None else scale
    models = denoisers(pipe)
    return RunSpec(
        model=f"{pipeline_name(pipe)} of {' and '.join(map(model_name, models))}",
        scheduler=scheduler_name(pipe.scheduler),
        num_inference_steps=steps if isinstance(steps, int) and not given else None,
        guidance_scale=float(scale) if isinstance(scale, (int, float)) else None,
        weights_hash=weights_digest(models) if reads_weights else None,
    )


def pipeline_name(pipe: Any) -> str:
    """The class of a pipeline, with its own settings that differ from the defaults, such as Wan's
    boundary_ratio.
    """
    own = {name: value for name, value in _settings(pipe).items() if type(value) in (bool, int, float, str)}
    inner = changed_settings(pipe, own)
    return type(pipe).__name__ + (f"({inner})" if inner else "")


def model_name(model: nn.Module) -> str:
    """The class of a model, and a hash of its config."""
    inner = getattr(model, "_orig_mod", model)
    return f"{type(inner).__name__} {digest(_settings(inner))}"


def scheduler_name(scheduler: Any) -> str:
    """The class of a scheduler, with the settings that differ from the defaults."""
    inner = changed_settings(scheduler, {**_settings(scheduler), **current_shift(scheduler)})
    return f"{type(scheduler).__name__}({inner})"


def changed_settings(item: Any, settings: Mapping[str, Any]) -> str:
    """The settings that differ from the defaults of the arguments of the class, as text."""
    arguments = inspect.signature(type(item).__init__).parameters
    differing = [
        (name, plain_text(value))
        for name, value in sorted(settings.items())
        if name in arguments and plain_text(value) != plain_text(arguments[name].default)
    ]
    return ", ".join(f"{name}={text}" for name, text in differing)


def current_shift(scheduler: Any) -> dict[str, Any]:
    """The shift of a scheduler, which `set_shift` changes without its config; empty for others."""
    has_shift = hasattr(scheduler, "set_shift") and hasattr(scheduler, "shift")
    return {"shift": scheduler.shift} if has_shift else {}


def _settings(item: Any) -> dict[str, Any]:
    config = getattr(item, "config", None) or {}
    return {name: value for name, value in dict(config).items() if name not in NOT_NUMBERS}


def plain_text(value: Any) -> str:
    """A setting as text, equal in every process; tuples are written like lists, as in JSON."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(item: Any) -> Any:
    if isinstance(item, Mapping):
        return dict(item)
    if hasattr(item, "tolist"):
        return item.tolist()
    if hasattr(item, "tobytes"):  # an image
        return [item.size, hashlib.sha256(item.tobytes()).hexdigest()]
    return re.sub(r" at 0x[0-9a-f]+", "", repr(item))


def digest(value: Any) -> str:
    """A hash of a plain value, 8 hexadecimal digits."""
    return hashlib.sha256(plain_text(value).encode()).hexdigest()[:8]


@torch.no_grad()
def weights_digest(models: list[nn.Module]) -> str | None:
    """A hash of the weights and adapters: names, shapes, and one value of each in bfloat16, so that it is
    independent of the dtype. None if weights are not in memory (sequential offload).
    """
    named = [(name, each) for model in models for name, each in model.named_parameters()]
    if any(each.is_meta for _, each in named):
        return None
    plain = [each for _, each in named if type(each.data) is Tensor and each.is_floating_point()]
    plain = [each for each in plain if each.numel()]
    by_device: dict[torch.device, list[Tensor]] = {}
    for each in plain:
        by_device.setdefault(each.device, []).append(each.reshape(-1)[each.numel() // 2].bfloat16())
    numbers = [torch.stack(rows).float().tolist() for rows in by_device.values()]
    adapters = [state for model in models for state in adapter_states(model)]
    return digest([[name, list(each.shape)] for name, each in named] + numbers + adapters)


def adapter_states(model: nn.Module) -> list[Any]:
    """Of each layer with adapters of peft: which are active, and their scales."""
    layers: list[Any] = [each for each in model.modules() if hasattr(each, "disable_adapters")]
    layers = [each for each in layers if isinstance(getattr(each, "scaling", None), Mapping)]
    return [
        [] if each.disable_adapters else [[name, each.scaling.get(name)] for name in each.active_adapters]
        for each in layers
    ]


def parallel_of(model: nn.Module) -> Parallel:
    """The ranks that share one video through diffusers' parallelism; one rank without it."""
    config = getattr(getattr(model, "_orig_mod", model), "_parallel_config", None)
    mesh = None
    for name in ("context_parallel_config", "tensor_parallel_config"):
        part = getattr(config, name, None)
        mesh = mesh or getattr(part, "_flattened_mesh", None) or getattr(part, "_mesh", None)
    if mesh is None:
        return Parallel()
    return Parallel(replica=Axis.of(mesh.get_group()), device=mesh.device_type)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's blocks get only a shard of the tokens."""
    config = getattr(getattr(model, "_orig_mod", model), "_parallel_config", None)
    return getattr(config, "context_parallel_config", None) is not None


def is_compiled(model: nn.Module) -> bool:
    """Whether the whole model is compiled, so that its blocks are part of the graph."""
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
