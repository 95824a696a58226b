"""The T5 encoder on a very small random T5 with a tokenizer trained here."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import warnings

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

from videosys.text_encoders.t5 import EMBEDDINGS, T5Encoder

SENTENCE = "a red blue green cat dog runs over the big small hill at night slowly and then sleeps"
WORDS = SENTENCE.split()
LONG = " ".join(WORDS * 8)


def tiny_config(vocab_size):
    return T5Config(
        vocab_size=vocab_size,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )


def train_tokenizer(path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 20),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Weights, config and spiece.model in one folder, as the published text encoder has them."""
    folder = tmp_path_factory.mktemp("t5")
    train_tokenizer(folder / "spiece.model")
    torch.manual_seed(0)
    T5EncoderModel(tiny_config(128)).save_pretrained(str(folder))
    return folder


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture(scope="session")
def encoder(checkpoint):
    return T5Encoder.from_pretrained(checkpoint, max_length=40)


def test_shapes_dtypes_and_mask(encoder):
    embeds, mask = encoder(["a red cat", "", "the big dog sleeps at night"])
    assert embeds.shape == (3, 40, 32)
    assert embeds.dtype == torch.float32
    assert not embeds.requires_grad
    assert not encoder.training
    assert mask.shape == (3, 40)
    assert mask.dtype == torch.int64
    assert mask[1].sum() == 1  # the end of the sequence
    lengths = mask.sum(dim=1)
    assert torch.equal(mask, (torch.arange(40) < lengths[:, None]).long())
    assert torch.equal(embeds * (1 - mask)[..., None], torch.zeros_like(embeds))


def test_rows_of_a_prompt_equal_the_padded_pass(encoder):
    prompts = ["a red cat runs", "", "the big dog sleeps at night"]
    embeds, mask = encoder(prompts)
    tokens = encoder.tokenizer(
        prompts, max_length=40, padding="max_length", truncation=True, return_tensors="pt"
    )
    assert torch.equal(tokens["attention_mask"], mask)
    with torch.no_grad():
        padded = encoder.model(**tokens)[0]
    kept = mask.bool()
    torch.testing.assert_close(embeds[kept], padded[kept], rtol=0, atol=1e-6)


def test_prompts_do_not_see_their_neighbours(encoder):
    alone, _ = encoder(["a red cat"])
    together, _ = encoder(["the big dog sleeps at night", "a red cat"])
    assert torch.equal(alone[0], together[1])


def test_a_long_prompt_is_cut_with_a_warning(encoder):
    count = len(encoder.tokenizer(LONG, verbose=False)["input_ids"])
    with pytest.warns(UserWarning, match=f"{count} tokens.*last {count - 40} are cut"):
        _, mask = encoder([LONG])
    assert mask.sum() == 40
    assert encoder.tokenize("a cat")[-1] == 1


def test_a_prompt_that_just_fits_does_not_warn(checkpoint, encoder):
    length = len(encoder.tokenize("a red cat"))
    exact = T5Encoder(encoder.model, encoder.tokenizer, max_length=length)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, mask = exact(["a red cat"])
    assert mask.all()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "list of prompts is empty"),
        ("a cat", "list of strings"),
        (["a cat", 3], "int"),
        ([None], "NoneType"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(encoder, prompts, message):
    with pytest.raises(ValueError, match=message):
        encoder(prompts)


def test_two_folders_and_tokenizer_json(checkpoint, encoder, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "text_encoder", ignore=shutil.ignore_patterns("spiece.model"))
    encoder.tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    (tmp_path / "tokenizer" / "spiece.model").unlink(missing_ok=True)
    again = T5Encoder.from_pretrained(tmp_path, max_length=40)
    for ours, theirs in zip(again(["a red cat"]), encoder(["a red cat"]), strict=True):
        assert torch.equal(ours, theirs)


def write_shards(folder, state):
    """Rewrite the weights as two .bin files and their index, the published form of T5 XXL."""
    (folder / "model.safetensors").unlink()
    shards = {"pytorch_model-00001-of-00002.bin": {}, "pytorch_model-00002-of-00002.bin": {}}
    weight_map = {}
    for number, (key, value) in enumerate(state.items()):
        name = sorted(shards)[number % 2]
        shards[name][key] = value.clone()
        weight_map[key] = name
    for name, part in shards.items():
        torch.save(part, folder / name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_sharded_bin(copy, encoder):
    write_shards(copy, encoder.model.state_dict())
    again = T5Encoder.from_pretrained(copy, max_length=40)
    assert torch.equal(again(["a red cat"])[0], encoder(["a red cat"])[0])


def test_sharded_safetensors(copy, encoder):
    (copy / "model.safetensors").unlink()
    encoder.model.save_pretrained(str(copy), max_shard_size="20KB")
    assert len(list(copy.glob("*.safetensors"))) > 1
    again = T5Encoder.from_pretrained(copy, max_length=40)
    assert torch.equal(again(["a red cat"])[0], encoder(["a red cat"])[0])


def test_the_encoder_of_a_whole_t5_is_enough(copy):
    torch.manual_seed(1)
    whole = T5ForConditionalGeneration(tiny_config(128))
    whole.save_pretrained(str(copy))
    ours = T5Encoder.from_pretrained(copy).model.state_dict()
    theirs = whole.encoder.state_dict()
    assert all(torch.equal(ours[f"encoder.{key}"], value) for key, value in theirs.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_close(checkpoint, encoder, dtype):
    low = T5Encoder.from_pretrained(checkpoint, max_length=40, dtype=dtype)
    embeds, _ = low(["a red cat"])
    expected, _ = encoder(["a red cat"])
    assert embeds.dtype == dtype
    assert (embeds.float() - expected).abs().max() < 0.05 * expected.abs().max()


class Touch:
    """What a malicious weight file does when it is unpickled: it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    torch.save({"shared.weight": Touch(tmp_path / "ran")}, copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        T5Encoder.from_pretrained(copy)
    assert not (tmp_path / "ran").exists()


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


def truncate_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def escape_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"shared.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def lose_shard(folder):
    index = {"weight_map": {"shared.weight": "gone.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil_index(folder):
    (folder / "model.safetensors.index.json").write_text("[]")


def change_config(**changes):
    def spoil(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_weights, "no weights"),
        (truncate_weights, "cannot be read"),
        (escape_folder, "not a file in its own folder"),
        (lose_shard, "gone.safetensors', which is missing"),
        (spoil_index, "weight_map"),
        (change_config(num_layers=3), "missing: .*block.2"),
        (change_config(num_layers=1), "unexpected: .*block.1"),
        (change_config(d_model=16), "with another shape: "),
        (remove("config.json"), "config.json"),
        (remove("spiece.model"), "spiece.model"),
        (lambda folder: (folder / "spiece.model").write_bytes(b"no vocabulary"), "tokenizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_folder_is_one_clear_error(copy, spoil, message):
    spoil(copy)
    with pytest.raises(ValueError, match=message):
        T5Encoder.from_pretrained(copy)


@pytest.mark.parametrize(
    ("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")]
)
def test_a_missing_package_is_named(checkpoint, monkeypatch, module, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    with pytest.raises(ValueError, match=f"pip install {package}"):
        T5Encoder.from_pretrained(checkpoint)


def test_max_length_is_checked(encoder):
    with pytest.raises(ValueError, match="max_length is 0"):
        T5Encoder(encoder.model, encoder.tokenizer, max_length=0)


def test_rows_of_the_padding_where_a_model_reads_them(encoder):
    embeds, mask = encoder(["a red cat runs", ""], padded=True)
    plain, same = encoder(["a red cat runs", ""])
    assert torch.equal(mask, same)
    torch.testing.assert_close(embeds[mask.bool()], plain[mask.bool()], rtol=0, atol=1e-6)
    tokens = encoder.tokenizer([""], max_length=40, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        expected = encoder.model(**tokens)[0]
    torch.testing.assert_close(embeds[1:], expected, rtol=0, atol=1e-6)
    assert embeds[1, 1:].abs().min(dim=-1).values.max() > 0


def test_an_encoder_of_mt5_is_loaded_as_one(checkpoint, tmp_path):
    from transformers import MT5Config, MT5EncoderModel

    shutil.copy(checkpoint / "spiece.model", tmp_path)
    MT5EncoderModel(MT5Config(**{**tiny_config(128).to_dict(), "model_type": "mt5"})).save_pretrained(
        tmp_path
    )
    encoder = T5Encoder.from_pretrained(tmp_path, max_length=9)
    assert type(encoder.model) is MT5EncoderModel
    assert encoder(["a red cat"])[0].shape == (1, 9, 32)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(copy, dtype):
    path = copy / "model.safetensors"
    state = load_file(path)
    key = "encoder.block.0.layer.0.SelfAttention.q.weight"
    state[key] = state[key].to(dtype)
    save_file(state, path)
    with pytest.raises(ValueError, match=rf"1 with a dtype of another kind: {key} {dtype}"):
        T5Encoder.from_pretrained(copy)


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_a_whole_model_gives_its_encoder(checkpoint, encoder, copy, model_type, name):
    """Published mT5 files have a decoder, and files call the token embeddings by either of two names."""
    path = copy / "model.safetensors"
    state = {key: item.clone() for key, item in load_file(path).items()}
    embeddings = next(state.pop(key) for key in EMBEDDINGS if key in state)
    more = {"decoder.final_layer_norm.weight": torch.ones(32), "lm_head.weight": embeddings.clone()}
    save_file({**state, **more, name: embeddings}, path)
    change_config(model_type=model_type)(copy)
    loaded = T5Encoder.from_pretrained(copy, max_length=40)
    assert torch.equal(loaded(["a red cat"])[0], encoder(["a red cat"])[0])
    assert loaded.model.get_input_embeddings().weight is loaded.model.encoder.embed_tokens.weight


def test_numbers_that_no_encoder_has_are_refused_at_once(copy):
    change_config(num_layers=10**12)(copy)
    with pytest.raises(ValueError, match="num_layers: is 1000000000000; it must be 1000 or less"):
        T5Encoder.from_pretrained(copy)


def test_the_default_dtype_is_not_touched_while_weights_are_read(checkpoint, monkeypatch):
    monkeypatch.setattr(torch, "set_default_dtype", None)  # other threads compute meanwhile
    encoder = T5Encoder.from_pretrained(checkpoint, max_length=40, dtype=torch.bfloat16)
    assert encoder(["a red cat"])[0].dtype == torch.bfloat16
