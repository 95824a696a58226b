"""Warnings before a run that the free memory is too small for."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from tests.tiny_checkpoint import config_of
from videosys import VideoSysEngine
from videosys.estimate import estimate
from videosys.pipelines import memory


def test_all_processes_of_a_computer_are_counted(checkpoint, monkeypatch):
    config = config_of(checkpoint, device="cpu")
    made = estimate(config)
    monkeypatch.setattr(memory, "available_bytes", lambda config: int(1.5 * made.peak))
    assert memory.first_shortage(config, made) is None
    assert "in 2 processes together" in memory.first_shortage(config, made, 2)
    on_gpu = replace(config, device="cuda", offload="stage")
    made = estimate(on_gpu)
    room = {"cuda": 2 * made.peak, "cpu": int(1.5 * made.host)}
    monkeypatch.setattr(memory, "available_bytes", lambda config: room[config.device])
    assert memory.first_shortage(on_gpu, made) is None
    assert "in the host's memory" in memory.first_shortage(on_gpu, made, 2)


def test_an_engine_of_processes_counts_them(checkpoint, monkeypatch):
    seen = []
    monkeypatch.setattr(memory, "warn_if_too_large", lambda config, ranks: seen.append((config, ranks)))
    monkeypatch.setattr("videosys.engine.pool.Pool._open", lambda *given: 1 / 0)
    with VideoSysEngine(config_of(checkpoint, num_gpus=2, device="cpu"), quiet=True) as engine:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                engine.generate("a red circle")
    ((config, ranks),) = seen
    assert ranks == 2
    assert config.parallel.is_resolved


def test_a_run_that_cannot_fit_is_warned_of(checkpoint, monkeypatch):
    config = config_of(checkpoint)
    monkeypatch.setattr(memory, "available_bytes", lambda config: 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory.warn_if_too_large(config)  # a small video
    monkeypatch.setattr(memory, "SMALL", 1)
    with pytest.warns(UserWarning, match="needs about"):
        memory.warn_if_too_large(config)
    monkeypatch.setattr(memory, "available_bytes", lambda config: 1 << 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory.warn_if_too_large(config)
    assert memory.shortage(10, None) is None


def test_an_estimate_that_fails_stops_no_run(checkpoint, monkeypatch):
    def fail(config):
        raise RuntimeError("a private function of torch is gone")

    monkeypatch.setattr(memory, "cost", fail)
    monkeypatch.setattr(memory, "SMALL", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory.warn_if_too_large(config_of(checkpoint))


def test_the_engine_warns_once_before_it_works(checkpoint, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda config: 1000)
    monkeypatch.setattr(memory, "SMALL", 1)
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        with pytest.warns(UserWarning, match="needs about"):
            engine.stream("a red circle")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            engine.stream("a blue circle")
