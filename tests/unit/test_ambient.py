"""What a program has set for all of torch changes no result, and is as it was afterwards."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from tests.ambient import SETTINGS, TOGETHER, dtype, seen, together
from tests.tiny_checkpoint import LATTE, WRITERS, config_of, text_to_video_config
from videosys import Reference, T5Encoder, VideoSysEngine, load_model, psnr, read_video, save_video, ssim
from videosys.calibration import Clips
from videosys.calibration.runs import open_pipeline
from videosys.estimate import estimate
from videosys.generation.request import VideoJob
from videosys.metrics import Lpips
from videosys.models.pixart.latte_t2v import LatteT2V
from videosys.utils.settled import PROCESS, settle, settled, settled_steps

OTHERS = [name for name in WRITERS if name != "latte"]
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small checkpoint of each model, by its name."""
    made = {name: tmp_path_factory.mktemp(name) for name in WRITERS}
    for name, folder in made.items():
        WRITERS[name](folder)
    return made


@pytest.fixture(scope="module")
def configs(folders):
    changes = {"num_inference_steps": 4, "num_videos_per_prompt": 2}
    plain = {name: text_to_video_config(name, folders[name], **changes) for name in [*OTHERS[1:], "latte"]}
    return {"opensora": config_of(folders["opensora"], num_frames=17, **changes), **plain}


def videos(config, **request):
    """The videos of a new engine, which reads the weights under what is set now."""
    with VideoSysEngine(config, quiet=True) as engine:
        return engine.generate(PROMPT, **request).video


def equal(videos, expected):
    return len(videos) == len(expected) and all(map(torch.equal, videos, expected))


@pytest.fixture(scope="module")
def settled_videos(configs):
    return {name: videos(config) for name, config in configs.items()}


@pytest.fixture(scope="module")
def engine(configs):
    with VideoSysEngine(configs["latte"], quiet=True) as engine:
        yield engine


@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_that_is_set_changes_a_video(setting, engine, settled_videos):
    with SETTINGS[setting]():
        before = seen()
        result = engine.generate(PROMPT).video
        assert seen() == before
    assert equal(result, settled_videos["latte"])


@pytest.mark.parametrize("setting", TOGETHER)
@pytest.mark.parametrize("name", WRITERS)
def test_nor_how_a_new_engine_reads_weights(name, setting, configs, settled_videos):
    with together(setting):
        before = seen()
        result = videos(configs[name])
        assert seen() == before
    assert equal(result, settled_videos[name])


def test_references_of_a_program_in_inference_mode(configs):
    config = replace(configs["opensora"], num_videos_per_prompt=1)
    frames = torch.arange(17 * 32 * 48 * 3).remainder(251).to(torch.uint8).view(17, 32, 48, 3)
    expected = videos(config, references=Reference(frames))
    with together("others"):
        made_here = frames.clone()
        assert made_here.is_inference()
        result = videos(config, references=Reference(made_here))
    assert equal(result, expected)


FRAMES = torch.arange(2 * 16 * 16 * 3).remainder(253).to(torch.uint8).view(2, 16, 16, 3)

LPIPS = Lpips().requires_grad_(False)  # of random weights


def written(folder):
    return read_video(save_video(FRAMES, folder / "a.mp4", fps=8, lossless=True))[0]


FUNCTIONS = {
    "psnr": lambda folders, tmp: psnr(FRAMES, FRAMES.flip(0)),
    "ssim": lambda folders, tmp: ssim(FRAMES, FRAMES.flip(0)),
    "lpips": lambda folders, tmp: LPIPS(*(item.repeat(1, 2, 2, 1) for item in (FRAMES, FRAMES.flip(0)))),
    "files": lambda folders, tmp: written(tmp),
    "T5Encoder": lambda folders, tmp: T5Encoder.from_pretrained(folders["latte"], max_length=9)([PROMPT])[0],
    "load_model": lambda folders, tmp: (
        load_model(LatteT2V, LATTE, folders["latte"] / "transformer").proj_out.weight
    ),
}


@pytest.mark.parametrize("setting", TOGETHER)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nor_what_a_function_gives(name, setting, folders, tmp_path):
    expected = FUNCTIONS[name](folders, tmp_path)
    with together(setting):
        before = seen()
        result = FUNCTIONS[name](folders, tmp_path)
        assert seen() == before
    assert (result.dtype, result.device) == (expected.dtype, expected.device)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("setting", TOGETHER)
def test_nor_an_estimate_or_the_runs_of_a_calibration(setting, configs):
    config = replace(configs["latte"], num_videos_per_prompt=1)

    def run():
        pipeline, own = open_pipeline(config, quiet=True)
        clips = Clips(pipeline, own, [VideoJob(PROMPT, 3)])
        return estimate(config), clips.run(own.cache).latents

    cost, latents = run()
    with together(setting):
        before = seen()
        own_cost, own_latents = run()
        assert seen() == before
    assert own_cost == cost
    assert torch.equal(own_latents, latents)


@pytest.mark.parametrize("setting", TOGETHER)
def test_a_stream_leaves_what_is_set_between_its_videos(setting, engine, settled_videos):
    with together(setting):
        before = seen()
        stream = engine.stream(PROMPT)
        assert seen() == before
        first = next(stream)
        assert seen() == before
        stream.close()
        assert seen() == before
    assert equal(first.video, settled_videos["latte"][:1])


def test_what_is_set_between_two_videos_changes_neither(engine, settled_videos):
    stream = engine.stream(PROMPT)
    made = []
    for setting in TOGETHER:
        with together(setting):
            made += next(stream).video
    assert equal(made, settled_videos["latte"])


@pytest.mark.parametrize(
    "where", ["text_encoders.t5.T5Encoder.tokenize", "models.latte.autoencoder.LatteVAE.decode"]
)
def test_an_error_leaves_what_is_set(where, engine, monkeypatch):
    monkeypatch.setattr(f"videosys.{where}", lambda *args: 1 / 0)
    with together("16 bits"):
        before = seen()
        with pytest.raises(ZeroDivisionError):
            engine.generate(PROMPT)
        assert seen() == before


def test_a_refused_request_leaves_what_is_set(engine):
    with together("16 bits"):
        before = seen()
        with pytest.raises(ValueError, match="must be text and not blank"):
            engine.generate(" ")
        assert seen() == before


def test_each_thread_keeps_its_own_settings(configs, engine, settled_videos):
    results = {}

    def work(setting):
        with SETTINGS[setting]():
            before = seen()
            made = engine.generate(PROMPT).video
            results[setting] = made, seen() == before

    names = ["autocast bfloat16", "default device meta", "inference mode"]
    threads = [threading.Thread(target=work, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == set(names)
    for made, is_as_before in results.values():
        assert is_as_before
        assert equal(made, settled_videos["latte"])


def test_the_last_thread_puts_back_what_the_process_had():
    inside, outside = threading.Event(), threading.Event()
    kept = []

    def work():
        with settled():
            inside.set()
            outside.wait(10)
            kept.append(torch.get_default_dtype())

    with dtype(torch.float64):
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(10)
        with settled():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32  # the other thread is at work
        outside.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
    assert kept == [torch.float32]


def test_a_settled_generator_may_be_collected_at_any_time():
    """Also while this thread holds the lock of the settings: the end of the generator is settled too."""

    def numbers():
        try:
            yield 1
        finally:
            ends.append(torch.get_default_dtype())

    ends = []
    with dtype(torch.float64):
        steps = settled_steps(numbers())
        assert next(steps) == 1
        with PROCESS.lock:
            del steps
            gc.collect()
        assert torch.get_default_dtype() == torch.float64
    assert ends == [torch.float32]


def test_engines_in_threads_may_have_different_attention(configs, settled_videos):
    """Each gives the frames that it gives alone."""
    names = ["math", "flash", "torch", "math"]
    engines = [VideoSysEngine(replace(configs["latte"], attention=name), quiet=True) for name in names]
    alone = [engine.generate(PROMPT).video for engine in engines]
    before = torch.nn.attention._cur_sdpa_kernel_backends()
    with ThreadPoolExecutor(len(engines)) as pool:
        made = [*pool.map(lambda engine: engine.generate(PROMPT).video, engines)]
    assert all(map(equal, made, alone))
    assert equal(alone[2], settled_videos["latte"])
    assert torch.nn.attention._cur_sdpa_kernel_backends() == before


def test_what_a_program_sets_meanwhile_is_not_lost():
    with dtype(torch.float32):
        with settled():
            torch.set_default_dtype(torch.float64)
            with settled():
                assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64


def test_frozen_and_mixed_settings_are_left_as_they_were(engine, settled_videos):
    """Precisions set by torch's newer names, which its older ones then refuse to read."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        result = engine.generate(PROMPT).video
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before
    assert equal(result, settled_videos["latte"])


def test_a_decorated_function_keeps_its_name_and_a_generator_its_end():
    @settle
    def numbers():
        """Some numbers."""
        try:
            yield torch.get_default_dtype()
        finally:
            ends.append(torch.get_default_dtype())

    ends = []
    with dtype(torch.float64):
        assert list(numbers()) == [torch.float32]
        next(iter(numbers()))  # closed at once
        with contextlib.closing(settled_steps(iter([1, 2]))) as steps:
            assert next(steps) == 1
    assert (numbers.__name__, numbers.__doc__) == ("numbers", "Some numbers.")
    assert ends == [torch.float32, torch.float32]


def test_a_checkpoint_by_a_relative_path_is_found_after_a_change_of_folder(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(folders["latte"].parent)
    config = text_to_video_config("latte", folders["latte"].relative_to(os.getcwd()), num_inference_steps=1)
    with VideoSysEngine(config, quiet=True) as engine:
        monkeypatch.chdir(tmp_path)
        assert len(engine.generate(PROMPT).video) == 1
