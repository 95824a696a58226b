"""Pipelines by their names in diffusers, and configs by name: a thin way to config and engine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import pytest
import torch

import videosys
from tests.tiny_checkpoint import SETTINGS
from videosys import (
    FAMILIES,
    LatteConfig,
    NoCacheConfig,
    OpenSoraConfig,
    OpenSoraPipeline,
    OpenSoraPlanConfig,
    OpenSoraPlanPipeline,
    TeaCacheConfig,
    TextToVideoPipeline,
    VideoOutput,
    VideoSysEngine,
    load_config,
    load_family_config,
    pipeline_class,
)
from videosys.pipelines import places_of
from videosys.utils.installed import configs_folder

PROMPT = "a red circle"
SHORT = {**SETTINGS, "num_frames": 1, "num_inference_steps": 2}


def test_a_pipeline_is_called_like_one_of_diffusers(checkpoint):
    with OpenSoraPipeline.from_pretrained(checkpoint, quiet=True, **SHORT) as pipe:
        output = pipe(PROMPT, num_videos_per_prompt=2)
        assert isinstance(output, VideoOutput)
        assert output.frames == output.video
        assert torch.equal(pipe(**pipe.encode_prompt(PROMPT)).frames[0], output.frames[0])
        assert pipe.config.transformer == str(checkpoint)
        assert isinstance(pipe, TextToVideoPipeline)
        with VideoSysEngine(pipe.config, quiet=True) as engine:
            assert torch.equal(engine.generate(PROMPT).video[0], output.frames[0])
        with pytest.raises(ValueError, match=r"'generator' \(diffusers's name; here it is seed"):
            pipe(PROMPT, generator=torch.Generator())
        with pytest.raises(ValueError, match="lora"):
            pipe.load_lora_weights("no/such/folder")
        pipe.unload_lora_weights()
        assert torch.equal(pipe(PROMPT).frames[0], output.frames[0])


@pytest.mark.parametrize("name", FAMILIES.built_in)
def test_each_family_has_one_with_its_configs_by_name(name):
    family = FAMILIES[name]
    own = getattr(videosys, family.config.__name__.replace("Config", "Pipeline"))
    assert own.family is family
    assert own is getattr(videosys, own.__name__)
    names = family.config.named_configs()
    assert {
        "tiny",
        "base",
        *(yaml.removesuffix(".yaml") for yaml in family.published.values()),
    } <= names.keys()
    assert family.config.examples == name
    for config in names:
        assert load_config(family.config, config) == load_config(family.config, names[config])
    assert load_config(family.config, f"{name}/tiny") == load_config(family.config, "tiny")
    with own.from_pretrained("tiny", seed=5, quiet=True) as pipe:
        assert pipe.config == load_config(family.config, "tiny", ["seed=5"]).anchored()


def test_checkpoints_that_come_with_the_package():
    with OpenSoraPipeline.from_pretrained("bundled:opensora", quiet=True) as pipe:
        assert (pipe.config.num_frames, pipe.config.cache) == (34, NoCacheConfig())
    with OpenSoraPlanPipeline.from_pretrained("bundled:open_sora_plan_v110", quiet=True) as pipe:
        assert pipe.config.version == "v110"
    everything = dict.fromkeys(("transformer", "vae", "text_encoder"), "bundled:opensora")
    with VideoSysEngine(OpenSoraConfig(**everything), quiet=True) as engine:
        assert engine.pipeline.parts.transformer.folder.name == "transformer"
    with pytest.raises(ValueError, match="folder; its checkpoint folders are v110, v120, vae"):
        OpenSoraPlanPipeline.from_pretrained(
            "bundled:open_sora_plan", version="v110", text_encoder="bundled:opensora"
        )


@pytest.mark.parametrize(
    ("config", "source", "parts"),
    [
        (LatteConfig(), "maxin-cn/Latte-1", {"transformer", "vae", "text_encoder"}),
        (OpenSoraPlanConfig(), "LanguageBind/Open-Sora-Plan-v1.1.0", {"transformer", "vae"}),
        (OpenSoraConfig(), "hpcai-tech/OpenSora-STDiT-v3", {"transformer"}),
    ],
)
def test_repositories_have_the_parts_that_the_published_one_has(config, source, parts):
    assert places_of(config, source) == dict.fromkeys(parts, source)


def test_folders_have_the_parts_that_are_in_them(checkpoint, tmp_path):
    assert places_of(OpenSoraConfig(), str(checkpoint)).keys() == {"transformer", "vae", "text_encoder"}
    own = str(checkpoint / "transformer")
    assert places_of(OpenSoraConfig(), own) == {"transformer": own}
    shutil.copytree(checkpoint / "vae", tmp_path / "vae")
    assert places_of(OpenSoraConfig(), str(tmp_path)).keys() == {"transformer", "vae"}


@dataclass(frozen=True)
class OtherConfig(OpenSoraConfig):
    pass


def test_an_outside_family_gets_one_too(checkpoint, monkeypatch):
    family = replace(FAMILIES["opensora"], name="other", config=OtherConfig)
    monkeypatch.setattr(FAMILIES, "_entries", {**FAMILIES._entries, "other": family})
    own = pipeline_class(family)
    assert own.__name__ == "OtherPipeline"
    with own.from_pretrained(str(checkpoint), quiet=True, **SHORT) as pipe:
        assert type(pipe.config) is OtherConfig
        assert pipe(PROMPT).frames[0].shape == (1, SHORT["height"], SHORT["width"], 3)


@pytest.mark.parametrize("name", ["tiny", "tiny.yml", "opensora/tinny"])
def test_a_missing_file_lists_the_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name == "tiny":
        (tmp_path / "tiny").write_text("seed: 9")  # a file that is here comes first
        assert load_config(OpenSoraConfig, name).seed == 9
        return
    hint = r"no such config file \(did you mean 'tiny'\?\); configs by name: base, .*, tiny, tiny_calibrated"
    with pytest.raises(ValueError, match=hint):
        load_config(OpenSoraConfig, name)


@pytest.mark.parametrize("name", ["tiny", "base", "opensora/tiny"])
def test_a_folder_does_not_hide_a_config_by_name(tmp_path, monkeypatch, name):
    named = load_config(OpenSoraConfig, name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    assert load_config(OpenSoraConfig, name) == named


def test_names_of_several_families(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = load_config(LatteConfig, configs_folder() / "latte" / "tiny.yaml")
    assert load_family_config("latte/tiny") == load_family_config("tiny", "latte") == tiny
    with pytest.raises(ValueError, match="cannot determine the model"):
        load_family_config("tiny")


def test_without_a_hub_the_checkpoint_in_the_package_is_named(monkeypatch):
    def fetch(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    for config in (OpenSoraConfig(), LatteConfig(), OpenSoraPlanConfig()):
        advice = rf"load_config\({type(config).__name__}, 'tiny'\) uses the small checkpoint"
        with pytest.raises(ValueError, match=advice):
            VideoSysEngine(config)


FAST = TeaCacheConfig(threshold=0.2, coefficients=OpenSoraConfig(cache="teacache_fast").cache.coefficients)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, NoCacheConfig()),
        ("none", NoCacheConfig()),
        ("teacache_fast", FAST),
        (FAST, FAST),
    ],
)
def test_caches_by_name_in_every_way(checkpoint, given, expected, monkeypatch):
    assert OpenSoraConfig(cache=given).cache == expected
    assert load_config(
        OpenSoraConfig, {"cache": given} if not isinstance(given, TeaCacheConfig) else None
    ).cache == (expected if not isinstance(given, TeaCacheConfig) else NoCacheConfig())
    if not isinstance(given, TeaCacheConfig):
        text = "null" if given is None else given
        assert load_config(OpenSoraConfig, None, [f"cache={text}"]).cache == expected
    with OpenSoraPipeline.from_pretrained(checkpoint, cache="teacache_slow", quiet=True, **SHORT) as pipe:
        assert pipe.engine.requested({"cache": given}).cache == expected


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_schedulers_by_name_in_a_call(checkpoint, scheduler):
    with OpenSoraPipeline.from_pretrained(checkpoint, quiet=True, **SHORT) as pipe:
        assert pipe.engine.requested({"scheduler": scheduler}).scheduler.name == scheduler
        with pytest.raises(ValueError, match="scheduler is 'eular'"):
            pipe(PROMPT, scheduler="eular")
