"""The engine: the interface for programs."""

from videosys.engine.engine import VideoSysEngine
from videosys.engine.submit import Handle
from videosys.engine.torchrun import is_main_process

__all__ = ["Handle", "VideoSysEngine", "is_main_process"]
