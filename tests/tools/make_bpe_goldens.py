#!/usr/bin/env python3
"""Makes tests/data/bpe: small byte-level BPE tokenizers, and what the tokenizers package says.

The tokenizers are trained on tests/data/text/kjv-heldout.txt by the package itself (PyPI:
tokenizers), with the settings of GPT-2, Llama 3 and SmolLM2; goldens.json holds the ids that it
gives for hard strings and random ones.

usage: make_bpe_goldens.py OUTPUT_DIRECTORY [NUMBER_OF_RANDOM_STRINGS]
"""

import json
import pathlib
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers import trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+")

HARD = [
    "", " ", "  ", "\n", "\r\n\r\n", "\t\t x",
    "a", " a", "a ", "Hello, world!", "it's IT'S we'll",
    "And it came to pass", "1234567890",
    "3.14159 and 2,718", "x=1;y=22;zzz=333", "Straße Ærø naïve",
    "Привет, мир!", "你好，世界", "こんにちは世界", "안녕하세요", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया",
    "🙂🙃", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "e\u0301 vs é",
    "\u200b\u200d\ufeff", "\x00\x01\x7f", "a\u00a0b\u2003c\u3000d",
    "\u0085x\u2028y\u2029z", "\u180ex", "tab\tnew\nline\rret",
    "     indent", "trailing     ", "a" * 300,
    " " * 77, "\n" * 33, "ab" * 150, "<|begin_of_text|>",
    "<|im_start|>user\nhi<|im_end|>", "<s></s>",
    "<|tool|>call<|tool|>", "½ ² Ⅷ ٣", "'", "''s",
    "don't'", "¿Qué?", "𝒳𝓎𝓏", "\U00010348", "ǅ", "ﬁ", "߷",
    "if (x) {\n    return y;\n}\n", "http://example.com/?q=1&r=%20",
    "a\r\n \r\nb", "  \n  \n", "...!!!???",
]


def random_strings(count, seed):
    rng = random.Random(seed)
    # Assigned in Unicode 14, which PCRE2 10.42 knows; the package's engine knows later ones.
    pools = [(0x20, 0x7E), (0x9, 0xD), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF),
             (0x5D0, 0x5EA),
             (0x620, 0x64A), (0x905, 0x939), (0x2000, 0x206F), (0x2190, 0x21FF), (0x3041, 0x30FF),
             (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0x1F600, 0x1F64F), (0x1D400, 0x1D454)]
    words = ["the", " and", "LORD", " 12", "\n\n", "'s", " ", "  ", "<|tool|>", "ing", "2024"]
    for _ in range(count):
        text = ""
        for _ in range(rng.randint(1, 24)):
            if rng.random() < 0.4:
                text += rng.choice(words)
            else:
                low, high = rng.choice(pools)
                c = chr(rng.randint(low, high))
                if unicodedata.category(c) not in ("Cn", "Cs"):
                    text += c * rng.choice([1, 1, 1, 2, 5])
        yield text


def train(pre_tokenizer, special, post_processor=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train([str(ROOT / "tests/data/text/kjv-heldout.txt")], trainer)
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False)])
    if post_processor:
        tokenizer.post_processor = post_processor(tokenizer)
    return tokenizer


def make():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    without_regex = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def bos_first(tokenizer):
        return processors.TemplateProcessing(
            single="<|begin_of_text|> $A",
            special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))])

    return {
        "gpt2": train(byte_level, ["<|endoftext|>"]),
        "llama3": train(
            pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated", invert=False),
                without_regex]), ["<|begin_of_text|>", "<|end_of_text|>"], bos_first, True),
        "smollm2": train(
            pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    }


def ids_of(tokenizer, text):
    """What a user's text gives."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def user_tokenizer(tokenizer):
    """The same without its special tokens, as they are not looked for in a user's text."""
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["special"]]
    spec["post_processor"] = None
    return Tokenizer.from_str(json.dumps(spec))


def main():
    output = pathlib.Path(sys.argv[1])
    texts = HARD + list(random_strings(int(sys.argv[2]) if len(sys.argv) > 2 else 150, seed=1))
    goldens = {}
    for name, tokenizer in make().items():
        directory = output / name
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
        plain = user_tokenizer(tokenizer)
        goldens[name] = [{"text": t, "ids": ids_of(plain, t)} for t in texts]
    (output / "goldens.json").write_text(
        json.dumps(goldens, ensure_ascii=True, separators=(",", ":"))
        .replace('{"text"', '\n{"text"') + "\n")


if __name__ == "__main__":
    main()
