"""Numbers that are not finite end a generation before they are bytes, with the stage and what helps."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_checkpoint import WRITERS, build_pipeline, config_of, text_to_video_config
from videosys import Reference
from videosys.generation.finite import check_frames, check_steps, frame_sums

BAD = {"nan": torch.nan, "inf": torch.inf, "minus inf": -torch.inf}
STAGES = {
    "text_encoder": "the text encoder, for '.*', gives numbers that are not finite: .*try dtype float32",
    "transformer": "the transformer in denoising step 1 of (4|13) gives latents that are not finite",
    "vae": r"the autoencoder's decoder \(.*frames 0 to \d+ of the clip, counted from 0\) gives frames that",
}


@pytest.fixture(scope="module", params=list(WRITERS))
def config(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](folder)
    if request.param == "opensora":
        return config_of(folder, num_frames=17)
    return text_to_video_config(request.param, folder)


def spoil(pipeline, stage, value):
    """Sets numbers of the last layer of a part."""
    with getattr(pipeline, stage).use() as module:
        module = getattr(module, "spatial", module)
        part = module.model if stage == "text_encoder" else getattr(module, "decoder", module)
        last = [item for name, item in part.named_parameters() if "temporal" not in name][-1]
        last.data.fill_(value)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("value", BAD)
def test_a_damaged_part_is_named(stage, value, config):
    pipeline = build_pipeline(config, quiet=True)
    spoil(pipeline, stage, BAD[value])
    with pytest.raises(ValueError, match=STAGES[stage]):
        list(pipeline.generate(["a cross"], config, quiet=True))


def test_a_decoder_that_overflows_in_float16_is_named(checkpoint):
    config = config_of(checkpoint, num_frames=17, dtype="float16")
    pipeline = build_pipeline(config, quiet=True)
    with pipeline.vae.use() as vae:
        vae.spatial.decoder.conv_in.weight.data.mul_(60000)
    with pytest.raises(ValueError, match=r"decoder \(chunk 0, .*try dtype float32 or bfloat16 \(float16"):
        list(pipeline.generate(["a cross"], config, quiet=True))


@pytest.mark.parametrize("what", ["reference", "loop"])
def test_a_damaged_encoder_is_named(what, checkpoint):
    config = config_of(checkpoint, loops=2 if what == "loop" else 1)
    pipeline = build_pipeline(config, quiet=True)
    with pipeline.vae.use() as vae:
        vae.spatial.encoder.conv_in.bias.data.fill_(torch.nan)
    image = torch.zeros(1, 32, 48, 3, dtype=torch.uint8)
    inputs = {"references": Reference(image)} if what == "reference" else {}
    stage = "reference 0" if what == "reference" else "the end of loop 0"
    with pytest.raises(ValueError, match=f"the autoencoder's encoder, for {stage}, gives numbers that are"):
        list(pipeline.generate(["a cross"], config, quiet=True, **inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", BAD)
def test_one_bad_pixel_of_a_late_chunk_is_found(dtype, value):
    frames = torch.full((2, 3, 40, 8, 8), 60000.0, dtype=dtype)  # large and finite
    check_frames(frame_sums(frames), 17)
    frames[1, 2, 35:37, 4, 5] = BAD[value]
    with pytest.raises(ValueError, match=r"\(chunk 2, frames 35 to 36 of the clip"):
        check_frames(frame_sums(frames), 17)
    with pytest.raises(ValueError, match=r"\(frames 35 to 36 of the clip"):
        check_frames(frame_sums(frames))


def test_the_first_bad_step_is_named():
    flags = [torch.tensor(value) for value in (True, True, False, True)]
    with pytest.raises(ValueError, match="denoising step 3 of 4"):
        check_steps(flags)
    check_steps(flags[:2])
    check_steps([])
