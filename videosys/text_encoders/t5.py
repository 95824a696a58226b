"""The T5 or mT5 text encoder."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videosys.layers.storage import StorageDType, quantize_blocks
from videosys.utils.checkpoint import (
    Split,
    as_it_is,
    check_keys,
    empty_model,
    load_state_dict,
    placed,
    read_config,
    resolve,
    tell_prefix,
)
from videosys.utils.interrupts import raise_interrupt
from videosys.utils.kinds import file_kind
from videosys.utils.lazy import imported
from videosys.utils.prefixes import without_prefix
from videosys.utils.reading import check_regular, load_json_object
from videosys.utils.settled import settle
from videosys.utils.typed import MOST_BLOCKS, MOST_CHANNELS, MOST_HEADS, limited

PATTERNS = ("*.json", "*.model", "*.safetensors", "*.bin")
PARTS = ("text_encoder/*", "tokenizer/*", "config.json")  # files to download from a pipeline's repository
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
CONFIG_FILES = ("config.json",)
DECODER = ("decoder.", "lm_head.")  # key prefixes in a complete T5
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # two names of one tensor


class T5Encoder(nn.Module):
    """Encodes prompts into one embedding per token. The result of a prompt does not depend on other prompts.

    Each prompt is encoded separately and without padding, because most of T5's 300 tokens would be padding,
    which is expensive on a CPU. The rows of the padding are zeros, unless the model reads them.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int = 300):
        super().__init__()
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; it must be 1 or more")
        self.model: Any = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    @classmethod
    @settle
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        max_length: int = 300,
        dtype: torch.dtype = torch.float32,
        storage_dtype: StorageDType = "auto",
        device: str | torch.device = "cpu",
        offline: bool = False,
        revision: str | None = None,
    ) -> T5Encoder:
        """Load the encoder of a local folder or hub id, in eval mode and without gradients.

        The folder contains weights and tokenizer, or the folders `text_encoder` and `tokenizer`. Weights are
        safetensors or .bin files, single or sharded; code in a file is never executed. ValueError for missing
        or damaged files. storage_dtype: of the blocks' weights while not in use; `auto` is `dtype`.
        """
        folder = resolve(source, revision=revision, offline=offline, patterns=PATTERNS)
        tokenizer = load_tokenizer(find_folder(folder, "tokenizer", TOKENIZER_FILES))
        folder = find_folder(folder, "text_encoder", CONFIG_FILES)
        return cls(load_weights(folder, dtype, device, storage_dtype), tokenizer, max_length).eval()

    @property
    def blocks_owner(self) -> Any:
        """The part of the model that has the list of blocks: transformers' T5Stack."""
        return self.model.encoder

    @settle
    def forward(self, prompts: Sequence[str], padded: bool = False) -> tuple[Tensor, Tensor]:
        """Return prompt_embeds [B, L, D] and prompt_mask [B, L] (int64, 1 = a token), L = max_length.

        An empty prompt has one token, the end of the sequence. A prompt of more than L tokens is truncated
        with a warning. padded: the rows of the padding are the encoder's output instead of zeros; the mask is
        the same. ValueError if there are no prompts or one is not a string.
        """
        check_prompts(prompts)
        weight = self.blocks_owner.get_input_embeddings().weight
        embeds = weight.new_zeros(len(prompts), self.max_length, weight.shape[1])
        mask = torch.zeros(len(prompts), self.max_length, dtype=torch.int64, device=weight.device)
        for row, prompt in enumerate(prompts):
            ids = self.tokenize(prompt)
            mask[row, : len(ids)] = 1
            length = self.max_length if padded else len(ids)
            ids += [self.tokenizer.pad_token_id] * (length - len(ids))
            tokens = torch.tensor([ids], device=weight.device)
            output = self.model(input_ids=tokens, attention_mask=mask[row : row + 1, :length])
            embeds[row, :length] = output[0][0]
        return embeds, mask

    def tokenize(self, prompt: str) -> list[int]:
        """Return the prompt's token ids, at most max_length, ending with the end-of-sequence token."""
        ids = self.tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        count, limit = len(ids), self.max_length
        if count > limit:
            warnings.warn(
                f"the prompt has {count} tokens, but the model reads {limit}: "
                f"the last {count - limit} are cut off ({prompt[:40]!r}...)",
                stacklevel=2,
            )
            ids = self.tokenizer(prompt, max_length=limit, truncation=True)["input_ids"]
        return ids


def check_prompts(prompts: Sequence[str]) -> None:
    """ValueError unless prompts are a list of at least one string."""
    if isinstance(prompts, str):
        raise ValueError(f"prompts must be a list of strings, not one string: {prompts!r}")
    if not prompts:
        raise ValueError("the list of prompts is empty")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"a prompt must be a string, not {type(prompt).__name__}: {prompt!r}")


def find_folder(folder: Path, name: str, files: Sequence[str]) -> Path:
    """The first of folder/name and folder that contains one of the files. ValueError if neither does."""
    for candidate in (folder / name, folder):
        if any((candidate / file).is_file() for file in files):
            return candidate
    raise ValueError(f"{folder} has no {' or '.join(files)}, neither directly nor in {name}/")


def check_width(folder: Path, width: int) -> None:
    """ValueError if the encoder of a folder has embeddings of another width, or is missing."""
    path = find_folder(folder, "text_encoder", CONFIG_FILES) / "config.json"
    d_model = read_config(Shape, path.parent).d_model
    if d_model != width:
        raise ValueError(f"{path}: d_model is {d_model}; the transformer needs embeddings of width {width}")


@dataclass(frozen=True)
class Shape:
    """The values in a T5's config.json, with the defaults of transformers. Video transformers need
    d_model.
    """

    d_model: int = limited(512, most=MOST_CHANNELS)
    d_kv: int = limited(64, most=MOST_CHANNELS)
    d_ff: int = limited(2048, most=MOST_CHANNELS)
    num_layers: int = limited(6, most=MOST_BLOCKS)
    num_decoder_layers: int | None = limited(None, most=MOST_BLOCKS)
    num_heads: int = limited(8, most=MOST_HEADS)
    vocab_size: int = limited(32128, most=10_000_000)
    relative_attention_num_buckets: int = limited(32, most=MOST_CHANNELS)


def load_tokenizer(folder: Path) -> Any:
    """Load the T5 tokenizer of a folder with spiece.model or tokenizer.json."""
    check_tokenizer_files(folder)
    has_vocabulary = (folder / "spiece.model").is_file()
    if not (folder / "tokenizer.json").is_file():
        require_packages(folder)
    # Before transformers 5, the slow class reads only spiece.model and the fast one only the JSON file.
    tokenizer_cls = imported("transformers", "T5Tokenizer" if has_vocabulary else "T5TokenizerFast")
    try:
        return tokenizer_cls.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the libraries raise various exceptions
        raise_interrupt(error)
        raise ValueError(f"the tokenizer in {folder} cannot be read: {error}") from error


def check_tokenizer_files(folder: Path) -> None:
    """ValueError that names a damaged tokenizer file, because transformers' error would be misleading."""
    for path in sorted(folder.glob("*.json")):
        if path.name in SETTINGS_FILES:
            load_json_object(path)
    for path in (folder / name for name in TOKENIZER_FILES):
        if not path.exists():
            continue
        check_regular(path, path.stat().st_mode)
        if known := file_kind(path):
            raise ValueError(f"the tokenizer in {path} cannot be read: it is {known}")
    if (folder / "spiece.model").is_file():
        check_vocabulary(folder / "spiece.model")


def check_vocabulary(path: Path) -> None:
    """ValueError if a spiece.model is invalid; no check without the package that reads it."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        return
    try:
        size = SentencePieceProcessor(model_proto=path.read_bytes()).get_piece_size()
    except Exception as error:  # sentencepiece raises RuntimeError and others
        raise_interrupt(error)
        raise ValueError(
            f"the tokenizer in {path} is not a SentencePiece model: it is damaged or truncated"
        ) from error
    if size == 0:
        raise ValueError(f"the tokenizer in {path} is not a SentencePiece model: it has no pieces")


def require_packages(folder: Path) -> None:
    """ValueError that names the package for spiece.model, because transformers would name an unrelated
    one.
    """
    for module, package in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")):
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # no parent package "google"
            spec = None
        if spec is None:
            raise ValueError(
                f"reading {folder / 'spiece.model'} needs the package {package}: pip install {package}"
            )


def read_encoder_config(folder: Path) -> Any:
    """Read a folder's config.json: an MT5Config for mT5, else a T5Config."""
    read_config(Shape, folder)  # ValueError for invalid values
    try:
        config_cls = imported("transformers", "T5Config")
        about, _ = config_cls.get_config_dict(str(folder), local_files_only=True)
        if about.get("model_type") == "mt5":
            config_cls = imported("transformers", "MT5Config")
        return config_cls.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises OSError and others for a damaged config.json
        raise_interrupt(error)
        raise ValueError(f"{folder} cannot be loaded as a T5 encoder: {error}") from error


def encoder_class(config: Any) -> Any:
    """The encoder class of transformers for a config: mT5 for an MT5Config, else T5."""
    is_mt5 = isinstance(config, imported("transformers", "MT5Config"))
    return imported("transformers", "MT5EncoderModel" if is_mt5 else "T5EncoderModel")


def load_weights(
    folder: Path,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    storage_dtype: StorageDType = "auto",
) -> nn.Module:
    """Load the T5 or mT5 encoder of a folder with all weights. ValueError for missing or damaged weights.

    Each weight is copied to the device unchanged, converted there, and stored before the next one is read.
    The loading of transformers is not used, because it changes torch's default dtype for all threads.
    """
    config = read_encoder_config(folder)
    model = empty_model(encoder_class(config), config, folder)
    state, words = without_prefix(load_state_dict(folder), model.state_dict().keys())
    tell_prefix(folder, words)
    weights = encoder_weights(state)
    check_keys(model, weights, folder, words)
    # As in transformers: the output of `wo` exceeds the range of float16.
    is_narrow = dtype == torch.float16
    dtypes = {key: torch.float32 if is_narrow and ".wo." in key else dtype for key in weights}
    split: Split = as_it_is if storage_dtype == "auto" else stored(model)
    first, second = EMBEDDINGS
    weights.pop(second)  # the same as the first
    del state
    made = placed(list(weights), weights, dtypes, device, split)
    model.load_state_dict({**made, second: made[first]}, assign=True)
    model.tie_weights()
    return model.eval().requires_grad_(False)


def stored(model: nn.Module) -> Split:
    """Prepare an encoder's blocks for quantized weights; return the function that quantizes weights of a
    file.
    """
    split, prefix = quantize_blocks(model.get_submodule("encoder")), "encoder."

    def split_encoder(key: str, tensor: Tensor) -> dict[str, Tensor]:
        if not key.startswith(prefix):
            return {key: tensor}
        return {prefix + own: part for own, part in split(key.removeprefix(prefix), tensor).items()}

    return split_encoder


def encoder_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights of a complete T5, with the token embeddings under both names."""
    weights = {key: item for key, item in state.items() if not key.startswith(DECODER)}
    first, second = EMBEDDINGS
    for name, other in ((first, second), (second, first)):
        if other in weights:
            weights.setdefault(name, weights[other])
    return weights
