"""Where tensors live when several devices work on one video."""

from videosys.parallel.mesh import Parallel, ParallelConfig

__all__ = ["Parallel", "ParallelConfig"]
