"""LoRAs of the transformer: files of several layouts give the weights that their formula says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_checkpoint import build_pipeline, config_of, text_to_video_config
from videosys import Lora, OpenSoraConfig, TeaCacheConfig, VideoSysEngine, config_to_dict, load_config
from videosys.cache.run_spec import RunSpec
from videosys.layers.storage import quantize

QKV, MLP, CONV = "spatial_blocks.0.attn.qkv", "temporal_blocks.1.mlp.fc2", "x_embedder.proj"
SHAPES = {QKV: (96, 32), MLP: (32, 128), CONV: (32, 4, 1, 2, 2)}
RANK, ALPHA = 4, 2.0


def matrices(shapes, seed=0):
    """(down, up) of each module."""
    torch.manual_seed(seed)
    pairs = {}
    for name, (out, *inner) in shapes.items():
        up = torch.randn(out, RANK, *[1] * (len(inner) - 1))
        pairs[name] = torch.randn(RANK, *inner) / 8, up
    return pairs


def expected(weight, pair, factor):
    down, up = pair
    return weight + factor * (up.flatten(1) @ down.flatten(1)).view(weight.shape)


def file_of(
    pairs, folder, name="a.safetensors", *, key="{}.{}.weight", words=("lora_A", "lora_B"), **tensors
):
    folder.mkdir(exist_ok=True)
    content = {key.format(m, word): part for m, pair in pairs.items() for word, part in zip(words, pair)}
    save_file({key: part.contiguous() for key, part in (content | tensors).items()}, folder / name)
    return folder / name


def peft(pairs, folder, **settings):
    path = file_of(pairs, folder, "adapter_model.safetensors", key="base_model.model.{}.{}.weight")
    path.with_name("adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, **settings}))
    return folder


def with_alpha(pairs, folder, key, words):
    path = file_of(pairs, folder, key=key, words=words)
    alphas = {key.partition("{}")[0] + f"{name}.alpha": torch.tensor(ALPHA) for name in pairs}
    return file_of(pairs, path.parent, key=key, words=words, **alphas)


def with_header(pairs, folder):
    path = file_of(pairs, folder, key="transformer.{}.{}.weight")
    tensors = {
        f"transformer.{m}.{w}.weight": p
        for m, pair in pairs.items()
        for w, p in zip(("lora_A", "lora_B"), pair)
    }
    settings = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": ALPHA})
    save_file(tensors, path, metadata={"lora_adapter_metadata": settings})
    return path


def underscored(pairs, folder):
    named = {name.replace(".", "_"): pair for name, pair in pairs.items()}
    return file_of(named, folder, key="lora_unet_{}.{}.weight", words=("lora_down", "lora_up"))


LAYOUTS = {
    "PEFT": (lambda pairs, folder: peft(pairs, folder, lora_alpha=ALPHA), ALPHA / RANK),
    "PEFT, rank-stabilised": (lambda p, f: peft(p, f, lora_alpha=ALPHA, use_rslora=True), ALPHA / RANK**0.5),
    "PEFT, alpha by module": (
        lambda p, f: peft(p, f, alpha_pattern=dict.fromkeys(p, ALPHA), lora_alpha=9),
        ALPHA / RANK,
    ),
    "PEFT, adapter named": (lambda p, f: file_of(p, f, key="base_model.model.{}.{}.default.weight"), 1.0),
    "diffusers": (
        lambda p, f: file_of(p, f, "pytorch_lora_weights.safetensors", key="transformer.{}.{}.weight"),
        1.0,
    ),
    "diffusers, settings in the header": (with_header, ALPHA / RANK),
    "diffusers, up and down": (
        lambda p, f: file_of(p, f, key="transformer.{}.{}.weight", words=("lora.down", "lora.up")),
        1.0,
    ),
    "alpha beside the matrices": (
        lambda p, f: with_alpha(p, f, "diffusion_model.{}.{}.weight", ("lora_down", "lora_up")),
        ALPHA / RANK,
    ),
    "underscores": (underscored, 1.0),
    "plain names": (file_of, 1.0),
}


def weights(config):
    """The weights of the transformer, in the names of its checkpoint."""
    pipeline = build_pipeline(config, quiet=True)
    with pipeline.transformer.use() as model:
        return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def plain(checkpoint):
    return weights(config_of(checkpoint))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(checkpoint, plain, tmp_path, layout):
    write, factor = LAYOUTS[layout]
    pairs = matrices(SHAPES)
    lora = Lora(str(write(pairs, tmp_path / "lora")), 0.5)
    found = weights(config_of(checkpoint, lora=lora))
    for key, weight in plain.items():
        pair = pairs.get(key.removesuffix(".weight"))
        if pair is None:
            assert torch.equal(found[key], weight)
        else:
            torch.testing.assert_close(found[key], expected(weight, pair, 0.5 * factor), rtol=0, atol=1e-5)
            assert (found[key] - weight).abs().max() > 0.05


def test_key_names_of_every_model_are_those_of_its_checkpoint(random_model, tmp_path):
    name, folder = random_model
    config = text_to_video_config(name, folder)
    before = weights(config)
    shapes = {
        key.removesuffix(".weight"): tuple(item.shape)
        for key, item in before.items()
        if key.endswith(".weight") and item.ndim > 1
    }
    assert any(key.startswith("transformer_blocks.0.attn1.to_out.0") for key in shapes)
    pairs = matrices(shapes)
    after = weights(replace(config, lora=str(file_of(pairs, tmp_path, key="transformer.{}.{}.weight"))))
    for key, pair in pairs.items():
        torch.testing.assert_close(
            after[f"{key}.weight"], expected(before[f"{key}.weight"], pair, 1.0), rtol=0, atol=1e-5
        )


def test_older_keys_of_attention_processors(random_model, tmp_path):
    name, folder = random_model
    config = text_to_video_config(name, folder)
    before = weights(config)
    shape = tuple(before["transformer_blocks.0.attn1.to_q.weight"].shape)
    pairs = matrices(
        {f"transformer_blocks.0.attn1.processor.{part}_lora": shape for part in ("to_q", "to_out")}
    )
    after = weights(replace(config, lora=str(file_of(pairs, tmp_path, words=("down", "up")))))
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert changed == ["transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.0.attn1.to_out.0.weight"]


def test_several_at_once_each_with_its_scale(checkpoint, plain, tmp_path):
    first, second = matrices({QKV: SHAPES[QKV]}), matrices({QKV: SHAPES[QKV], MLP: SHAPES[MLP]}, seed=1)
    paths = [file_of(first, tmp_path, "1.safetensors"), file_of(second, tmp_path, "2.safetensors")]
    found = weights(
        config_of(checkpoint, lora=[{"path": str(paths[0]), "scale": 2.0}, Lora(str(paths[1]), -1.0)])
    )
    both = expected(expected(plain[f"{QKV}.weight"], first[QKV], 2.0), second[QKV], -1.0)
    torch.testing.assert_close(found[f"{QKV}.weight"], both, rtol=0, atol=1e-5)
    nothing = weights(config_of(checkpoint, lora=Lora(str(paths[0]), 0.0)))
    assert all(torch.equal(nothing[key], plain[key]) for key in plain)


def test_with_eight_bits_and_half_precision(checkpoint, plain, tmp_path):
    pairs = matrices(SHAPES)
    path = str(file_of(pairs, tmp_path))
    fused = expected(plain[f"{QKV}.weight"], pairs[QKV], 1.0)
    half = weights(config_of(checkpoint, lora=path, dtype="bfloat16"))[f"{QKV}.weight"]
    torch.testing.assert_close(half, fused.bfloat16(), rtol=0.01, atol=0)
    stored = weights(config_of(checkpoint, lora=path, storage_dtype="float8_e4m3fn"))
    differs = stored[f"{QKV}.quantized"].float() != quantize(fused)[0].float()
    assert differs.float().mean() < 0.01  # another order of additions may round to the next eight bits


@pytest.fixture
def lora_file(tmp_path):
    return str(file_of(matrices(SHAPES), tmp_path / "lora"))


SHORT = {"num_frames": 1, "num_inference_steps": 2}
PROMPT = "a red circle"


def test_an_engine_loads_scales_and_removes_them_with_exact_bits(
    checkpoint, lora_file, monkeypatch, tmp_path
):
    with VideoSysEngine(config_of(checkpoint, **SHORT), quiet=True) as engine:
        plain = engine.generate(PROMPT).video[0]
        encoder, vae = engine.pipeline.text_encoder, engine.pipeline.vae
        monkeypatch.chdir(tmp_path)
        engine.set_lora("lora/a.safetensors")
        monkeypatch.undo()
        one = engine.generate(PROMPT).video[0]
        assert not torch.equal(one, plain)
        assert (engine.pipeline.text_encoder, engine.pipeline.vae) == (encoder, vae)
        stream = engine.stream([PROMPT, PROMPT])
        assert torch.equal(next(stream).video[0], one)
        engine.set_lora(Lora(lora_file, 0.25))
        assert torch.equal(next(stream).video[0], one)  # it began with the other
        quarter = engine.generate(PROMPT).video[0]
        assert not torch.equal(quarter, one)
        with pytest.raises(ValueError, match="there is no such file"):
            engine.set_lora("no.safetensors")
        assert torch.equal(engine.generate(PROMPT).video[0], quarter)
        engine.set_lora()
        assert torch.equal(engine.generate(PROMPT).video[0], plain)
        with pytest.raises(ValueError, match=r"unknown request 'lora_scale'.*engine.set_lora"):
            engine.generate(PROMPT, lora_scale=0.5)
    with VideoSysEngine(
        config_of(checkpoint, lora=lora_file, offload="stage", **SHORT), quiet=True
    ) as engine:
        for _ in range(2):
            assert torch.equal(engine.generate(PROMPT).video[0], one)


def written(folder, pairs, **options):
    return str(file_of(pairs, folder, **options))


def refusals(folder):
    pairs = matrices(SHAPES)
    yield (
        "unknown",
        written(folder, pairs | matrices({"no.such": (4, 4)})),
        ("2 that are not of the transformer's LoRA: no.such.lora_A.weight, no.such.lora_B.weight"),
    )
    text = {f"text_encoder.layers.0.{word}.weight": torch.zeros(2, 2) for word in ("lora_A", "lora_B")}
    yield "text encoder", written(folder, pairs, **text), "text_encoder.layers.0.lora_A.weight"
    yield (
        "magnitude",
        written(folder, pairs, **{f"{QKV}.lora_magnitude_vector": torch.zeros(2)}),
        "lora_magnitude_vector",
    )
    yield "bias", written(folder, pairs, **{f"{QKV}.lora_B.bias": torch.zeros(2)}), "lora_B.bias"
    twice = {f"transformer.{QKV}.lora_A.weight": pairs[QKV][0].clone()}
    yield "twice", written(folder, pairs, **twice), "1 that are not of the transformer's LoRA"
    yield (
        "lonely",
        written(folder, {QKV: (pairs[QKV][0],)}),
        f"1 without the other matrix: {QKV}.lora_A.weight",
    )
    yield (
        "alone",
        written(folder, {}, **{f"{QKV}.alpha": torch.ones(())}),
        f"1 without the other matrix: {QKV}.alpha",
    )
    yield (
        "shape",
        written(folder, {QKV: pairs[MLP]}),
        (f"{QKV}.lora_A.weight [4, 128] and {QKV}.lora_B.weight [32, 4] for a weight [96, 32]"),
    )
    yield "rank", written(folder, {QKV: (pairs[QKV][0][:3], pairs[QKV][1])}), "1 with another shape"
    whole = {QKV: (torch.zeros(4, 32, dtype=torch.int64), torch.zeros(96, 4, dtype=torch.int64))}
    yield "whole numbers", written(folder, whole), "1 with another shape"
    yield "alphas", written(folder, pairs, **{f"{QKV}.alpha": torch.ones(3)}), f"{QKV}.alpha [3]"
    yield "empty", written(folder, {}), "it has no tensors"


REFUSALS = (
    "unknown",
    "text encoder",
    "magnitude",
    "bias",
    "twice",
    "lonely",
    "alone",
    "shape",
    "rank",
    "whole numbers",
    "alphas",
    "empty",
)


@pytest.mark.parametrize("what", REFUSALS)
def test_what_does_not_fit_is_listed(checkpoint, tmp_path, what):
    path, message = next((path, message) for name, path, message in refusals(tmp_path) if name == what)
    with pytest.raises(ValueError) as caught:
        VideoSysEngine(config_of(checkpoint, lora=path), quiet=True)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_files_that_are_refused(checkpoint, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"PK\3\4")
    two, dora = tmp_path / "two", tmp_path / "dora"
    for name in ("1.safetensors", "2.safetensors"):
        file_of(matrices(SHAPES), two, name)
    peft(matrices(SHAPES), dora, use_dora=True)
    (tmp_path / "broken.safetensors").write_text("nothing")
    for path, message in {
        tmp_path / "a.bin": "only .safetensors files are read",
        tmp_path / "no.safetensors": "there is no such file",
        two: "it has 1.safetensors, 2.safetensors; name one",
        dora: "DoRA",
        tmp_path / "broken.safetensors": "cannot be read as tensors",
        tmp_path: "cannot be read as tensors",  # the only one in the folder
    }.items():
        with pytest.raises(ValueError, match=message):
            VideoSysEngine(config_of(checkpoint, lora=str(path)), quiet=True)


def test_in_configs(checkpoint, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lora:\n  - {path: a.safetensors, scale: 0.5}\n  - b\n")
    config = load_config(OpenSoraConfig, path)
    assert config.lora == (Lora("a.safetensors", 0.5), Lora("b"))
    assert load_config(OpenSoraConfig, config_to_dict(config)) == config
    for override in ("lora=a.safetensors", "lora=[a.safetensors]", "lora={path: a.safetensors}"):
        assert load_config(OpenSoraConfig, None, [override]).lora == (Lora("a.safetensors"),)
    for override, message in {
        "lora=[{scale: 1}]": "path: is missing",
        "lora=[{path: a, strength: 1}]": "lora: strength: unknown key; allowed: 'path', 'scale'",
        "lora=3": "lora must contain paths or mappings with path and scale, got 3",
        "lora=[{path: a, scale: .inf}]": "scale is inf; it must be a finite number",
        "lora=[{path: a, scale: x}]": "must be a number",
        "lora=[' ']": "path is empty",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_config(OpenSoraConfig, None, [override])
    assert OpenSoraConfig(lora=None).lora == ()
    assert config_of(checkpoint, lora=str(checkpoint / "transformer")).anchored().lora[0].path.startswith("/")


def test_settings_of_caches_are_then_another_models(checkpoint, lora_file, caplog):
    config = config_of(checkpoint, lora=lora_file)
    pipeline = build_pipeline(config, quiet=True)
    scope, other = pipeline.scope(config), pipeline.scope(replace(config, lora=()))
    assert scope.weights_hash.startswith(f"{other.weights_hash}+")
    half = pipeline.scope(replace(config, lora=Lora(lora_file, 0.5)))
    assert len({scope.weights_hash, half.weights_hash, other.weights_hash}) == 3
    other.check(scope, "calibration.json")
    assert "calibration.json was made with weights_hash" in caplog.text
    assert "it is for another model" in caplog.text
    assert other.distance(scope) == (0, 1)
    with pytest.raises(ValueError, match="was made with weights_hash"):
        RunSpec(weights_hash="1234+5").check(scope, "calibration.json")
    with pytest.warns(UserWarning, match="coefficients are those of opensora without LoRA"):
        pipeline.with_resolved_cache(replace(config, cache=TeaCacheConfig(0.1)))


@pytest.mark.slow
def test_with_compiled_blocks(checkpoint, lora_file):
    videos = []
    for kind in ("none", "blocks"):
        config = config_of(checkpoint, lora=lora_file, compile=kind, **SHORT)
        with VideoSysEngine(config, quiet=True) as engine:
            videos.append(engine.generate(PROMPT).video[0].int())
    assert (videos[0] - videos[1]).abs().max() <= 1
