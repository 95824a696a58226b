"""Process groups along the axes of a mesh, built by torch or by colossalai."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from videosys.utils.installed import install_command

BuildGroups = Callable[[Sequence[int], str], list[dist.ProcessGroup]]


def torch_groups(sizes: Sequence[int], device_type: str) -> list[dist.ProcessGroup]:
    """This process's group along each axis of torch's DeviceMesh, with the last axis innermost."""
    return init_device_mesh(device_type, tuple(sizes)).get_all_groups()


def colossalai_groups(sizes: Sequence[int], device_type: str) -> list[dist.ProcessGroup]:
    """The same groups from colossalai's ProcessGroupMesh. ValueError if it is not installed."""
    try:
        from colossalai.cluster import ProcessGroupMesh
    except ImportError as error:
        raise ValueError(
            f"parallel.mesh_backend is 'colossalai', which cannot be imported ({error}): "
            f"{install_command('colossalai')}, or choose 'torch'"
        ) from error
    mesh = ProcessGroupMesh(*sizes)
    return [mesh.get_group_along_axis(axis) for axis in range(len(sizes))]


BACKENDS: Mapping[str, BuildGroups] = MappingProxyType(
    {"torch": torch_groups, "colossalai": colossalai_groups}
)


def build_groups(backend: str, sizes: tuple[int, int, int], device_type: str) -> list[dist.ProcessGroup]:
    """This process's groups along dp, cfg and sp, and of its replica (cfg x sp).

    All processes must call it, because each creates all groups in the same order. The default group's timeout
    is used.
    """
    dp, cfg, sp = sizes
    build = BACKENDS[backend]
    groups = [*build(sizes, device_type), build((dp, cfg * sp), device_type)[1]]
    default = dist.distributed_c10d._get_default_group()
    options = getattr(default._get_backend(torch.device(device_type)), "options", None)
    if options is not None:
        for group in groups:
            # Neither mesh forwards a timeout.
            dist.distributed_c10d._set_pg_timeout(options._timeout, group)
    return groups
