"""The tokenizer of the tiny checkpoints: a unigram model with one piece per caption word.

A model of this size fitted to whole captions would mostly consist of characters.
Run `python -m eval.training.tokenizer --out FOLDER`; transformers reads the folder as a `T5Tokenizer`.
"""

from __future__ import annotations

import io
import json
import string
from collections.abc import Sequence
from pathlib import Path

from videosys import CommandParser, replacing
from videosys.tiny.words import WORDS

# Words that the sampling path may append to a prompt, besides the digits of a score.
SUFFIX_WORDS = ("aesthetic", "score", "motion", "camera")
MARKS = tuple(".,:;!?'\"-")
# Fallback pieces: an unknown word is split into letters.
CHARACTERS = tuple(string.ascii_lowercase + string.digits)
WORD_SCORE, CHARACTER_SCORE = (
    -4.0,
    -12.0,
)  # log probabilities; a whole word always scores higher than its parts
MAX_LENGTH = 300  # tokens, as in Open-Sora
SPACE = "\u2581"  # sentencepiece's marker of a word's start
SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def train(words: Sequence[str] = WORDS) -> bytes:
    """A serialized sentencepiece unigram model (pad 0, eos 1, unk 2, no bos) in which every word is one
    piece.

    For equally frequent words the most likely unigram model consists of the words. So the trainer only
    provides the frame (text normalization, special pieces), and its pieces are replaced. ValueError if a word
    would be split, such as one with a space.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    whole = dict.fromkeys([*words, *SUFFIX_WORDS, *string.digits])
    proto = sentencepiece_model_pb2.ModelProto.FromString(_frame())  # type: ignore[attr-defined]
    del proto.pieces[3:]  # pad, eos and unk stay
    for piece in [*(SPACE + word for word in whole), *MARKS]:
        proto.pieces.add(piece=piece, score=WORD_SCORE)
    for piece in [SPACE, *CHARACTERS]:
        proto.pieces.add(piece=piece, score=CHARACTER_SCORE)
    model = proto.SerializeToString(deterministic=True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    broken = [word for word in whole if len(processor.encode(word)) != 1]
    if broken:
        raise ValueError(f"these words would be split into several pieces: {', '.join(broken)}")
    return model


def _frame() -> bytes:
    """A trained model, whose pieces are replaced later."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CHARACTERS),
        model_writer=model,
        model_type="unigram",
        vocab_size=len(CHARACTERS) + 4,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def save(model: bytes, folder: str | Path) -> None:
    """Write the files for `T5Tokenizer.from_pretrained(folder)`: the model and two small JSON files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "T5Tokenizer",
        **SPECIAL_TOKENS,
        "extra_ids": 0,
        "additional_special_tokens": [],
        "legacy": True,
        "model_max_length": MAX_LENGTH,
    }
    _write(folder / "spiece.model", model)
    _write(folder / "tokenizer_config.json", _json(config))
    _write(folder / "special_tokens_map.json", _json(SPECIAL_TOKENS))


def main(argv: Sequence[str] | None = None) -> None:
    """Train the tokenizer and save it."""
    parser = CommandParser(prog="python -m eval.training.tokenizer", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    out = parser.parse_args(argv).out
    save(train(), out)
    print(f"wrote {out}")


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    main()
