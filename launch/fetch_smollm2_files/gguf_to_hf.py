"""Turns a GGUF file of a LLaMA model into a Hugging Face directory: config.json,
generation_config.json, model.safetensors (bfloat16), tokenizer.json and tokenizer_config.json.

    python gguf_to_hf.py MODEL.gguf DIRECTORY

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Reads and dequantises with the
package gguf, tensor by tensor. Exits with 1 and a sentence for a file that it does not know how to
turn into such a directory: another architecture, another tokenizer.
"""

import json
import pathlib
import struct
import sys

import gguf
import numpy as np

# GGUF's names of a layer's tensors, and Hugging Face's.
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL


def hf_name(name):
    """Hugging Face's name of GGUF's tensor `name`."""
    if name in OTHER_TENSORS:
        return OTHER_TENSORS[name]
    parts = name.split(".")  # blk.7.attn_q.weight
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in LAYER_TENSORS:
        sys.exit(f"gguf_to_hf: there is no place for the tensor {name} in a LLaMA model")
    return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.{parts[3]}"


def unpermute(rows, num_heads):
    """Rows of q_proj or k_proj as Hugging Face's RoPE pairs them: i with i + head_dim / 2. In GGUF
    the two stand next to each other."""
    paired = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, -1)
    return paired.swapaxes(1, 2).reshape(rows.shape)


def to_bfloat16(values):
    """float32 to the bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class Model:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in self.reader.fields.items()}
        self.expect("general.architecture", "llama")
        self.expect("tokenizer.ggml.model", "gpt2")
        self.expect("tokenizer.ggml.pre", "smollm")

    def expect(self, name, value):
        if self.fields.get(name) != value:
            sys.exit(f"gguf_to_hf: {name} is {self.fields.get(name)!r}; only {value!r} is known")

    def shape(self, name):
        return self.fields[f"llama.{name}"]

    def config(self):
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": self.fields["tokenizer.ggml.bos_token_id"],
            "eos_token_id": self.fields["tokenizer.ggml.eos_token_id"],
            "hidden_act": "silu",
            "hidden_size": self.shape("embedding_length"),
            "intermediate_size": self.shape("feed_forward_length"),
            "max_position_embeddings": self.shape("context_length"),
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.shape("attention.head_count"),
            "num_hidden_layers": self.shape("block_count"),
            "num_key_value_heads": self.shape("attention.head_count_kv"),
            "pad_token_id": self.fields["tokenizer.ggml.padding_token_id"],
            # A float32 in the file: 1e-5 there is 9.999999747378752e-06.
            "rms_norm_eps": float(f"{self.shape('attention.layer_norm_rms_epsilon'):.6g}"),
            "rope_theta": self.shape("rope.freq_base"),
            "tie_word_embeddings": not self.has("output.weight"),
            "torch_dtype": "bfloat16",
            "vocab_size": len(self.fields["tokenizer.ggml.tokens"]),
        }

    def has(self, name):
        return any(tensor.name == name for tensor in self.reader.tensors)

    def special_tokens(self):
        types = self.fields["tokenizer.ggml.token_type"]
        tokens = self.fields["tokenizer.ggml.tokens"]
        return {i: tokens[i] for i, kind in enumerate(types) if kind == CONTROL_TOKEN}

    def tokenizer(self):
        """tokenizer.json of SmolLM2: digits on their own, then GPT-2's byte-level words."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        tokens = self.fields["tokenizer.ggml.tokens"]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": i, "content": content, **flags, "special": True}
                for i, content in self.special_tokens().items()
            ],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {**byte_level, "use_regex": True},
                ],
            },
            "post_processor": None,
            "decoder": {**byte_level, "add_prefix_space": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": self.fields["tokenizer.ggml.merges"],
            },
        }

    def tokenizer_config(self):
        tokens = self.fields["tokenizer.ggml.tokens"]
        keys = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
        named = {
            f"{name}_token": tokens[self.fields[f"tokenizer.ggml.{key}_token_id"]]
            for name, key in keys.items()
        }
        return {
            "add_prefix_space": False,
            "additional_special_tokens": [named["bos_token"], named["eos_token"]],
            **named,
            "chat_template": self.fields["tokenizer.chat_template"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.shape("context_length"),
            "tokenizer_class": "GPT2Tokenizer",
        }

    def rows(self, tensor):
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for part, count in (("attn_q", "head_count"), ("attn_k", "head_count_kv")):
            if f".{part}." in tensor.name:
                values = unpermute(values, self.shape(f"attention.{count}"))
        return to_bfloat16(values)

    def write_tensors(self, path):
        """A safetensors file: 8 bytes of length, a JSON header, the data."""
        tensors = {hf_name(tensor.name): tensor for tensor in self.reader.tensors}
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, tensor in tensors.items():
            shape = [int(size) for size in reversed(tensor.shape)]  # GGUF names the innermost first
            end = offset + 2 * int(tensor.n_elements)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for done, tensor in enumerate(tensors.values(), start=1):
                file.write(self.rows(tensor).tobytes())
                show_progress(done, len(tensors))


def show_progress(done, total):
    """One line that is drawn over on a terminal; nothing elsewhere: it takes seconds."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\rdequantising {done} of {total} tensors", end=end, file=sys.stderr, flush=True)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    source, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    model = Model(source)
    config = model.config()
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", {name: config[name] for name in tokens})
    write_json(directory / "tokenizer.json", model.tokenizer())
    write_json(directory / "tokenizer_config.json", model.tokenizer_config())
    model.write_tensors(directory / "model.safetensors")


if __name__ == "__main__":
    main()
