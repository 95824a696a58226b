"""The engine: what a program talks to."""

from videosys.engine.engine import VideoSysEngine

__all__ = ["VideoSysEngine"]
