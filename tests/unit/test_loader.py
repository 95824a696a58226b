"""Where the parts of a checkpoint are looked for, on the hub and on this computer."""

from __future__ import annotations

import pytest

from tests.tiny_checkpoint import build_pipeline
from videosys import LatteConfig, OpenSoraConfig, OpenSoraPlanConfig
from videosys.generation import parts
from videosys.generation.loader import Loader
from videosys.generation.parts import PartFinder

LATTE, V110, V120 = (
    "maxin-cn/Latte-1",
    "LanguageBind/Open-Sora-Plan-v1.1.0",
    "LanguageBind/Open-Sora-Plan-v1.2.0",
)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """(source, subfolder, patterns) of everything that is looked for; none of it has a config."""
    seen = []

    def resolve(source, *, revision, offline, patterns, subfolder=""):
        assert (revision, offline) == ("main", True)
        seen.append((source, subfolder, patterns))
        return tmp_path

    monkeypatch.setattr(parts, "resolve", resolve)
    monkeypatch.setattr(Loader, "vae", lambda *args, **more: None)
    monkeypatch.setattr(Loader, "transformer", lambda *args, **more: None)
    monkeypatch.setattr("videosys.text_encoders.t5.check_width", lambda folder, width: None)
    monkeypatch.setattr("videosys.models.latte.pipeline.check_decoder", lambda *args: None)
    for module in ("generation.parts", "models.open_sora_plan.pipeline"):
        monkeypatch.setattr(f"videosys.{module}.read_config", lambda cls, folder: cls_of(cls))
    return seen


def cls_of(cls):
    from videosys.models.open_sora_plan.autoencoder import V110 as LAYOUT
    from videosys.models.open_sora_plan.autoencoder import CausalVAEConfig

    return LAYOUT if cls is CausalVAEConfig else cls()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LatteConfig, [(LATTE, "transformer"), (LATTE, "vae_temporal_decoder"), (LATTE, "")]),
        (OpenSoraPlanConfig, [(V120, "29x480p"), (V120, "vae"), ("google/mt5-xxl", "")]),
        (OpenSoraConfig, [("hpcai-tech/OpenSora-STDiT-v3", ""), ("hpcai-tech/OpenSora-VAE-v1.2", "")]),
    ],
)
def test_parts_on_the_hub(asked, config, expected):
    build_pipeline(config(revision="main", offline=True))
    assert [place[:2] for place in asked][: len(expected)] == expected


def test_choices_name_the_folder(asked):
    more = {"revision": "main", "offline": True}
    config = OpenSoraPlanConfig(version="v110", transformer_type="221x512x512", **more)
    build_pipeline(config)
    assert [place[:2] for place in asked[:2]] == [(V110, "221x512x512"), (V110, "vae")]
    assert "*.ckpt" in asked[1][2]
    asked.clear()
    build_pipeline(LatteConfig(enable_vae_temporal_decoder=False, **more))
    assert asked[1][:2] == (LATTE, "vae")


def test_of_a_repository_with_all_parts_only_the_text_encoder_is_fetched(asked, tmp_path):
    (tmp_path / "text_encoder").mkdir()
    finder = PartFinder(LatteConfig(revision="main", offline=True))
    finder.text_encoder(LATTE, 120)
    assert asked == [(LATTE, "", ("text_encoder/*", "tokenizer/*", "config.json"))]
    (tmp_path / "text_encoder").rmdir()
    asked.clear()
    finder.text_encoder("DeepFloyd/t5-v1_1-xxl", 300)
    assert [set(patterns) >= {"*.safetensors"} for _, _, patterns in asked] == [False, True]


def test_parts_on_this_computer(tmp_path):
    (tmp_path / "all" / "vae").mkdir(parents=True)
    finder = PartFinder(LatteConfig())
    assert finder.folder("vae", str(tmp_path / "all"), "vae") == tmp_path / "all" / "vae"
    assert finder.folder("vae", str(tmp_path / "all" / "vae"), "vae") == tmp_path / "all" / "vae"
    assert finder.folder("vae", "bundled:opensora", "vae").name == "vae"
    with pytest.raises(ValueError, match="neither a local folder nor a hub id"):
        finder.folder("vae", str(tmp_path / "none"), "vae")
