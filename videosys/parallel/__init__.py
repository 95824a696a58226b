"""Distribution of tensors over the devices that work on one video."""

from videosys.parallel.config import ParallelConfig
from videosys.parallel.mesh import Parallel

__all__ = ["Parallel", "ParallelConfig"]
