"""Names of other libraries are answered with ours, everywhere; the page lists the same table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny_checkpoint import config_of
from videosys import (
    LatteConfig,
    LattePipeline,
    OpenSoraConfig,
    OpenSoraPlanConfig,
    VideoSysEngine,
    load_config,
)
from videosys.generation.config import PipelineConfig
from videosys.generation.given import NAMES
from videosys.utils.foreign import FOREIGN, INPUTS, foreign_name

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coming-from.md"
ALL = [(name, item) for item in FOREIGN for name in item.names]
OLD_NAMES = ("num_sampling_steps", "cfg_scale")  # which Open-Sora's old YAML files may have


def test_the_page_has_the_same_table():
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert rows == [f"| {', '.join(f'`{name}`' for name in item.names)} | {item.here} |" for item in FOREIGN]


def test_no_name_is_listed_twice_or_is_ours():
    names = [name for name, _ in ALL if name != "cfg_scale"]
    assert len({*names}) == len(names)
    for config_cls in (OpenSoraConfig, LatteConfig, OpenSoraPlanConfig):
        assert not {*names, *INPUTS} & set(config_cls.__dataclass_fields__)
    assert set(NAMES) <= {*INPUTS}


@pytest.mark.parametrize(("name", "item"), ALL, ids=[name for name, _ in ALL])
def test_constructors_yaml_and_overrides_name_ours(name, item):
    here = re.escape(f"; here it is {item.here}" if name != "cfg_scale" else "guidance_scale")
    with pytest.raises(ValueError, match=here):
        LatteConfig(**{name: 1})
    with pytest.raises(ValueError, match=here):
        load_config(LatteConfig, {name: 1})
    with pytest.raises(ValueError, match=here):
        load_config(LatteConfig, None, [f"{name}=1"])


@pytest.fixture(scope="module")
def engine(checkpoint):
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        yield engine


@pytest.mark.parametrize(("name", "item"), ALL, ids=[name for name, _ in ALL])
def test_calls_name_ours(engine, name, item):
    with pytest.raises(ValueError, match=re.escape(item.here) if name != "cfg_scale" else "guidance_scale"):
        engine.generate("a", **{name: 1})


@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_names_of_yaml_files_are_read_and_refused_elsewhere(name, caplog):
    config = load_config(OpenSoraConfig, {name: 3})
    assert 3 in (config.num_inference_steps, config.guidance_scale)
    assert f"{name} is now called" in caplog.text
    with pytest.raises(ValueError, match="here it is"):
        OpenSoraConfig(**{name: 3})


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_of_calls_are_no_settings(name):
    advice = re.escape(f"an input of engine.generate, not a setting: engine.generate(..., {name}=...)")
    with pytest.raises(ValueError, match=advice):
        OpenSoraConfig(**{name: None})
    with pytest.raises(ValueError, match=advice):
        load_config(OpenSoraConfig, {name: None})


@dataclass(frozen=True)
class Unguided(PipelineConfig):
    """The config of a model without a negative prompt."""


def test_a_model_without_a_negative_prompt_says_so():
    with pytest.raises(
        ValueError, match=r"'negative_prompt' \(this model was not made to be guided by a neg"
    ):
        Unguided(negative_prompt="a")
    with pytest.raises(ValueError, match="this model was not made to be guided by a negative prompt"):
        load_config(Unguided, {"negative_prompt": "a"})


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("cache.rel_l1_thresh", "TeaCache's name; here it is cache: {name: teacache, threshold: 0.1}"),
        ("cache.spatial_range", "VideoSys's name; here it is cache: {name: pab, spatial: {range: 2"),
        ("cache.mlp_broadcast", "VideoSys's name; here it is cache: {name: pab, mlp_spatial: "),
        ("parallel.sp_size", "VideoSys's name; here it is parallel: {sp: 2}"),
        ("parallel.world_size", "VideoSys's name; here it is num_gpus"),
    ],
)
def test_names_within_a_section_are_answered_where_ours_is_in_that_section(key, ours):
    section, _, name = key.partition(".")
    settings = {"name": "teacache", name: 1} if section == "cache" else {name: 1}
    with pytest.raises(ValueError, match=re.escape(f"{key}: unknown key ({ours}")):
        load_config(OpenSoraConfig, {section: settings})
    with pytest.raises(ValueError, match=re.escape(f"{key}=1: unknown key ({ours}")):
        load_config(OpenSoraConfig, {"cache": "teacache"}, [f"{key}=1"])


def test_sections_in_calls_are_read_as_in_yaml(engine):
    config = OpenSoraConfig(cache={"name": "teacache", "threshold": 0.15}, scheduler={"name": "unipc"})
    yaml = {"cache": {"name": "teacache", "threshold": 0.15}, "scheduler": {"name": "unipc"}}
    assert config == load_config(OpenSoraConfig, yaml)
    assert config.cache.threshold == 0.15
    with pytest.raises(ValueError, match=r"cache.rel_l1_thresh: unknown key \(TeaCache's name"):
        engine.generate("a", cache={"name": "teacache", "rel_l1_thresh": 0.1})
    with pytest.raises(ValueError, match="cache: needs a name, one of"):
        engine.generate("a", cache={"threshold": 0.1})


def test_settings_of_a_cache_without_a_name_ask_for_the_name():
    with pytest.raises(ValueError, match="cache: needs a name, one of 'none', 'teacache', "):
        load_config(OpenSoraConfig, {"cache": {"threshold": 0.2}})
    with pytest.raises(ValueError, match=r"cache.*needs a name, one of 'none', 'teacache', "):
        load_config(OpenSoraConfig, None, ["cache.threshold=0.2"])


def test_a_wrong_source_of_a_pipeline_lists_the_named_configs():
    with pytest.raises(ValueError, match=r"^'tinny' is not a named config, .* \(did you mean 'tiny'\?\)"):
        LattePipeline.from_pretrained("tinny")


def test_settings_of_the_config_are_no_part_of_a_request(engine):
    with pytest.raises(ValueError, match=r"'dtype' \(a setting of the config, which a request cannot change"):
        engine.generate("a", dtype="float32")


def test_only_sections_of_a_whole_config_are_answered():
    with pytest.raises(ValueError, match="unknown key; allowed: ") as caught:
        load_config(OpenSoraConfig, None, ["parallel.generator=1"])
    assert "diffusers" not in str(caught.value)


def test_other_names_are_answered_with_the_nearest_or_not_at_all(engine):
    with pytest.raises(ValueError, match=r"unknown setting 'num_frame' \(did you mean 'num_frames'\?\)"):
        OpenSoraConfig(num_frame=3)
    with pytest.raises(ValueError, match=r"unknown request 'latent' \(did you mean 'latents'\?\)"):
        engine.generate("a", latent=3)
    assert foreign_name("whatever") == foreign_name("latents", NAMES) == ""
