"""What a config.json of Open-Sora's transformer or VAE may not say, each as one error with file and value."""

from __future__ import annotations

import json

import pytest

from videosys.models.opensora.autoencoder import OpenSoraVAE, OpenSoraVAEConfig
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.utils.checkpoint import load_model, read_config


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (STDiT3Config, {"num_heads": 0}),
        (STDiT3Config, {"num_heads": -2}),
        (STDiT3Config, {"input_sq_size": 0}),
        (STDiT3Config, {"patch_size": [1, 0, 2]}),
        (STDiT3Config, {"hidden_size": 0}),
        (STDiT3Config, {"mlp_ratio": 0}),
        (STDiT3Config, {"depth": 0}),
        (STDiT3Config, {"model_max_length": 10**12}),
        (OpenSoraVAEConfig, {"num_groups": 0}),
        (OpenSoraVAEConfig, {"num_groups": 3}),
        (OpenSoraVAEConfig, {"block_out_channels": []}),
        (OpenSoraVAEConfig, {"block_out_channels": [128, 0]}),
        (OpenSoraVAEConfig, {"norm_num_groups": 7}),
        (OpenSoraVAEConfig, {"scaling_factor": 0}),
        (OpenSoraVAEConfig, {"micro_frame_size": 16}),
        (OpenSoraVAEConfig, {"micro_frame_size": 0}),
        (OpenSoraVAEConfig, {"micro_batch_size": 0}),
    ],
)
def test_an_impossible_value_is_one_error(cls, changes, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(changes))
    with pytest.raises(ValueError, match="must be") as caught:
        read_config(cls, tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert next(iter(changes)) in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (STDiT3, STDiT3Config(caption_channels=10**17)),
        (OpenSoraVAE, OpenSoraVAEConfig(latent_channels=10**17)),
    ],
)
def test_sizes_that_cannot_be_name_the_folder(cls, config, tmp_path):
    with pytest.raises(ValueError, match=f"config is not valid for {cls.__name__}") as caught:
        load_model(cls, config, tmp_path)
    assert str(tmp_path) in str(caught.value)
