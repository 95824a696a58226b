"""Solvers that can replace a model's published scheduler.

All integrate the same equation, so with many steps they converge to the same video. With few steps, a solver
of higher order or a better grid of timesteps is closer to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch

from videosys.schedulers.build import NOISE, Sampler, check_steps
from videosys.schedulers.flow import FlowSampler, FlowSolver, shifted_grid
from videosys.utils.lazy import imported
from videosys.utils.plain import name_in
from videosys.utils.seed import Generators
from videosys.utils.typed import check_between, check_types, listing

MAX_SHIFT = 1000.0
MAX_ORDER = 3

Prediction = Literal["epsilon", "flow"]
Grid = Literal["lu", "karras", "exponential", "linspace", "leading", "trailing"]


@dataclass(frozen=True)
class Training:
    """The trained prediction type of a model.

    prediction: epsilon is the noise; flow is data minus noise on the straight path between them.
    noise: the training betas as options of diffusers' schedulers; for epsilon.
    shift: the time shift of the published grid; for flow.
    """

    prediction: Prediction
    noise: Mapping[str, Any] = field(default_factory=lambda: NOISE)
    shift: float = 1.0


@dataclass(frozen=True)
class SchedulerConfig:
    """Base class of the settings of every solver.

    predictions: supported prediction types. options: fields that apply to a single prediction type.
    method: the name in texts, with the order.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ()
    options: ClassVar[Mapping[str, Prediction]] = MappingProxyType({})
    method: ClassVar[str] = "published"

    def __post_init__(self) -> None:
        check_types(self)
        if self._shift is not None:
            check_between("scheduler.shift", self._shift, 1 / MAX_SHIFT, MAX_SHIFT)

    @property
    def _shift(self) -> float | None:
        """The field `shift`, for solvers that have it."""
        return getattr(self, "shift", None)

    @property
    def name(self) -> str:
        """The solver's name in SCHEDULERS."""
        return name_in(SCHEDULERS, self)

    @property
    def title(self) -> str:
        """The solver's name in texts, with the options that were set."""
        options = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "order"}
        given = [f"{name} {value}" for name, value in options.items() if value is not None]
        title = self.method.format(order=getattr(self, "order", None))
        return f"{title} ({', '.join(given)})" if given else title

    def check(self, prediction: Prediction | None, model: str) -> None:
        """ValueError if the solver, or one of its options, does not support the model's prediction."""
        name = self.name
        if prediction is None:
            raise ValueError(f"scheduler is {name!r}; {model} supports only 'published'")
        if prediction not in self.predictions:
            fitting = [key for key, cls in SCHEDULERS.items() if prediction in cls.predictions]
            raise ValueError(
                f"scheduler is {name!r}, which does not fit the {prediction} prediction of {model}; allowed: "
                f"published, {listing(fitting)}"
            )
        for option, needed in self.options.items():
            if getattr(self, option) is not None and needed != prediction:
                raise ValueError(
                    f"scheduler.{option} is {getattr(self, option)!r}; it is for {needed} predictions, and "
                    f"that of {model} is {prediction}"
                )

    def flow_grid(self, num_inference_steps: int, training: Training) -> torch.Tensor:
        """Noise levels of a flow model, with this config's shift or else the published one."""
        return shifted_grid(num_inference_steps, training.shift if self._shift is None else self._shift)

    def build(self, num_inference_steps: int, training: Training, generator: Generators) -> Any:
        """A new scheduler for one generation, with its timesteps set. generator: source of its noise."""
        raise NotImplementedError


@dataclass(frozen=True)
class PublishedConfig(SchedulerConfig):
    """The published scheduler of the model."""

    def check(self, prediction: Prediction | None, model: str) -> None:
        pass


@dataclass(frozen=True)
class EulerConfig(SchedulerConfig):
    """Euler steps of a flow model on a custom grid.

    shift: above 1, more steps are at high noise: sigma = s u / (1 + (s - 1) u) for evenly spaced u decreasing
        from 1. None is the published shift, which depends on the video's size.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("flow",)
    method: ClassVar[str] = "Euler"

    shift: float | None = None

    def build(self, num_inference_steps: int, training: Training, generator: Generators) -> Any:
        return FlowSolver(self.flow_grid(num_inference_steps, training), order=1)


@dataclass(frozen=True)
class DPMSolverConfig(SchedulerConfig):
    """DPM-Solver++ (arXiv 2211.01095), multistep: one model evaluation per step.

    order: 2 is known as 2M. For flow models 1 (Euler) or 2.
    solver_type: midpoint or heun, of order 2; for epsilon models.
    grid: of the timesteps, for epsilon models. lu (also known as use_lu_lambdas) and exponential have even
        steps of log-SNR, karras those of arXiv 2206.00364; linspace, leading and trailing are even in time.
        None is lu.
    shift: the grid of flow models, as in EulerConfig.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon", "flow")
    options: ClassVar[Mapping[str, Prediction]] = MappingProxyType(
        {"grid": "epsilon", "solver_type": "epsilon", "shift": "flow"}
    )
    algorithm: ClassVar[str] = "dpmsolver++"
    method: ClassVar[str] = "DPM-Solver++ {order}M"

    order: int = 2
    solver_type: Literal["midpoint", "heun"] | None = None
    grid: Grid | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("scheduler.order", self.order, 1, MAX_ORDER)

    def check(self, prediction: Prediction | None, model: str) -> None:
        super().check(prediction, model)
        if prediction == "flow" and self.order > 2:
            raise ValueError(f"scheduler.order is {self.order}; it must be 1 or 2 for flow predictions")

    def build(self, num_inference_steps: int, training: Training, generator: Generators) -> Any:
        if training.prediction == "flow":
            return FlowSolver(self.flow_grid(num_inference_steps, training), order=self.order)
        return self._of_epsilon(num_inference_steps, training.noise, {})

    def _of_epsilon(self, steps: int, noise: Mapping[str, Any], options: Mapping[str, Any]) -> Sampler:
        check_steps(steps, 1)
        make = partial(
            imported("diffusers", "DPMSolverMultistepScheduler"),
            **{**noise, **grid_options(self.grid)},
            solver_order=self.order,
            solver_type=self.solver_type or "midpoint",
            algorithm_type=self.algorithm,
        )
        return Sampler(make, steps, history=self.order, **options)


@dataclass(frozen=True)
class SDEDPMSolverConfig(DPMSolverConfig):
    """DPM-Solver++ for the SDE: each step draws new noise. Fields as in DPMSolverConfig."""

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon",)
    algorithm: ClassVar[str] = "sde-dpmsolver++"
    method: ClassVar[str] = "SDE-DPM-Solver++ {order}M"

    def build(self, num_inference_steps: int, training: Training, generator: Generators) -> Any:
        return self._of_epsilon(num_inference_steps, training.noise, {"generator": generator})


@dataclass(frozen=True)
class UniPCConfig(SchedulerConfig):
    """UniPC (arXiv 2302.04867): a multistep predictor and a corrector that needs no model evaluation.

    order: usually 2. grid, shift: as in DPMSolverConfig; UniPC has no lu, and None is exponential, which has
        the same steps. The variant is bh2, because bh1 has no finite last step to sigma 0.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon", "flow")
    options: ClassVar[Mapping[str, Prediction]] = MappingProxyType({"grid": "epsilon", "shift": "flow"})
    method: ClassVar[str] = "UniPC {order}"

    order: int = 2
    grid: Literal["karras", "exponential", "linspace", "leading", "trailing"] | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("scheduler.order", self.order, 1, MAX_ORDER)

    def build(self, num_inference_steps: int, training: Training, generator: Generators) -> Any:
        scheduler_cls = imported("diffusers", "UniPCMultistepScheduler")
        own = {"solver_order": self.order}
        if training.prediction == "flow":
            flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
            scheduler = scheduler_cls(**own, **flow)
            return FlowSampler(scheduler, self.flow_grid(num_inference_steps, training), history=self.order)
        check_steps(num_inference_steps, 1)
        options = {**training.noise, **grid_options(self.grid or "exponential")}
        make = partial(scheduler_cls, **options, **own)
        return Sampler(make, num_inference_steps, history=self.order)


def grid_options(grid: Grid | None) -> dict[str, Any]:
    """The options of diffusers' schedulers for a grid; None is lu."""
    if grid in ("linspace", "leading", "trailing"):
        return {"timestep_spacing": grid}
    name = {"lu": "use_lu_lambdas", "karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas"}
    return {name[grid or "lu"]: True}


SCHEDULERS: MappingProxyType[str, type[SchedulerConfig]] = MappingProxyType(
    {
        "published": PublishedConfig,
        "euler": EulerConfig,
        "dpm_solver": DPMSolverConfig,
        "sde_dpm_solver": SDEDPMSolverConfig,
        "unipc": UniPCConfig,
    }
)
