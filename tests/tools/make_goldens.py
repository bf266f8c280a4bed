"""Makes the golden values of the model tests with Hugging Face transformers, in float32.

  python make_goldens.py            writes tests/data/random-*/, and in tests/data/golden/
                                    rope.json and tiny-mixtral-windows.json
  python make_goldens.py --check    recomputes tests/data/golden/tiny-mixtral.json and compares

Needs torch, transformers, safetensors and sentencepiece (made with torch 2.15, transformers 5.23).
The tests need none of them. Each random model is a directory as transformers saves it plus
golden.json: a prompt, the logits of all its positions, the same with the bfloat16 roundings of
numerics.md put into transformers' code, and a greedy continuation. Prompts are chosen token by
token so that no router and no greedy choice is a close call: the roundings change logits a
little, but no choice.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import shutil

import sentencepiece
import torch
import transformers

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
PROMPT_TOKENS = 40
GREEDY_TOKENS = 12
MIN_ROUTER_MARGIN = 0.15  # between the last chosen expert's logit and the best one left out
MIN_GREEDY_MARGIN = 0.15  # between the best two logits, over the logits' RMS


@dataclasses.dataclass
class Case:
    name: str
    dtype: torch.dtype
    fields: dict
    experts: int = 0
    top_k: int = 0
    shards: bool = False  # several files and model.safetensors.index.json
    form: str = "new"  # of config.json: "new" (transformers 5), "classic" (4), "oldest" (LLaMA 1)

    @property
    def mixtral(self):
        return self.experts > 0


def llama3(theta, factor, original):
    return {
        "rope_theta": theta,
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }


def rope(theta, kind="default", **more):
    return {"rope_theta": theta, "rope_type": kind, **more}


def dims(vocab, hidden, inter, heads, kv_heads, head_dim, eps, tied, rope_parameters):
    return dict(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inter,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=eps,
        tie_word_embeddings=tied,
        rope_parameters=rope_parameters,
        num_hidden_layers=2,
        max_position_embeddings=128,
    )


CASES = [
    # Grouped queries, top 2 of 4, bfloat16 in several files.
    Case("random-mixtral-gqa", torch.bfloat16, dims(97, 64, 96, 4, 2, 16, 1e-5, False, rope(1e4)),
         experts=4, top_k=2, shards=True),
    # One K/V head, wide heads, top 3 of 8, tied, linear RoPE, float32.
    Case("random-mixtral-mqa", torch.float32,
         dims(101, 64, 32, 4, 1, 32, 1e-3, True, rope(1e6, "linear", factor=2.0)),
         experts=8, top_k=3),
    # As many K/V heads as heads, top 1, llama3 RoPE in the form of transformers 4, float16.
    Case("random-mixtral-mha", torch.float16,
         dims(130, 96, 48, 6, 6, 16, 1e-5, False, llama3(5e5, 8.0, 32)),
         experts=4, top_k=1, form="classic"),
    # A config.json of the first LLaMA: no K/V heads, no head_dim, no RoPE fields.
    Case("random-llama-mha", torch.float32, dims(99, 64, 96, 4, 4, 16, 1e-6, False, rope(1e4)),
         form="oldest"),
    # LLaMA 3 in small: grouped queries, odd head_dim, tied, llama3 RoPE, bfloat16.
    Case("random-llama-gqa", torch.bfloat16,
         dims(111, 128, 96, 8, 2, 24, 1e-5, True, llama3(5e5, 4.0, 64))),
    # One K/V head, linear RoPE in the form of transformers 4, float16 in several files.
    Case("random-llama-mqa", torch.float16,
         dims(98, 64, 128, 4, 1, 16, 1e-6, False, rope(2e5, "linear", factor=4.0)),
         shards=True, form="classic"),
]


def make_model(case):
    fields = dict(case.fields, bos_token_id=1, eos_token_id=2)
    if case.mixtral:
        config = transformers.MixtralConfig(
            **fields, num_local_experts=case.experts, num_experts_per_tok=case.top_k)
        model = transformers.MixtralForCausalLM(config)
    else:
        config = transformers.LlamaConfig(**fields)
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif "embed_tokens" in name:
                weight.normal_(0.0, 0.5)
            else:
                # Rows whose products have about the size of what comes in; routers more decided.
                gain = 3.0 if ".gate.weight" in name else 1.3
                weight.normal_(0.0, gain / math.sqrt(weight.shape[-1]))
    # What is stored is what is computed with: round to the storage type, compute in float32.
    model.to(case.dtype).config.dtype = case.dtype
    return model.eval()


def rewrite_config(case, directory):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if case.form != "new":
        parameters = config.pop("rope_parameters")
        theta = parameters.pop("rope_theta")
        config["torch_dtype"] = config.pop("dtype")
        config["rope_theta"] = theta
        kind = parameters["rope_type"]
        if kind == "linear":
            parameters = {"type": "linear", "factor": parameters["factor"]}
        config["rope_scaling"] = None if kind == "default" else parameters
    if case.form == "oldest":
        for key in ("rope_theta", "rope_scaling", "num_key_value_heads", "head_dim"):
            del config[key]
    path.write_text(json.dumps(config, indent=2) + "\n")


class Routers:
    """Collects what each layer's router computes: [tokens, experts] logits."""

    def __init__(self, model):
        self.logits = []
        for layer in model.model.layers:
            if hasattr(layer.mlp, "gate") and hasattr(layer.mlp, "experts"):
                layer.mlp.gate.register_forward_hook(self._hook)

    def _hook(self, module, inputs, outputs):
        rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
        self.logits.append(rows @ module.weight.float().T)

    def margin(self, top_k):
        """The smallest margin of the last token over the layers of the last forward pass."""
        smallest = math.inf
        for logits in self.logits:
            best = logits[-1].sort(descending=True).values
            smallest = min(smallest, (best[top_k - 1] - best[top_k]).item())
        return smallest


def forward(model, routers, ids):
    routers.logits.clear()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def to_bfloat16(x):
    return x.to(torch.bfloat16).float()


def round_as_intermix(model):
    """Puts numerics.md's roundings into a float32 model: K/V cache, inputs and outputs of o_proj
    and down_proj."""
    for modeling in (transformers.models.llama.modeling_llama,
                     transformers.models.mixtral.modeling_mixtral):
        if not hasattr(modeling, "exact_attention"):
            modeling.exact_attention = modeling.eager_attention_forward

        def attention(module, query, key, value, *args, exact=modeling.exact_attention, **more):
            return exact(module, query, to_bfloat16(key), to_bfloat16(value), *args, **more)

        modeling.eager_attention_forward = attention
    model.set_attn_implementation("eager")

    def round_inputs(module, inputs):
        return (to_bfloat16(inputs[0]),)

    def round_output(module, inputs, output):
        return to_bfloat16(output)

    for layer in model.model.layers:
        linears = [layer.self_attn.o_proj]
        if hasattr(layer.mlp, "down_proj"):
            linears.append(layer.mlp.down_proj)
        else:
            layer.mlp.experts.forward = rounded_experts(layer.mlp.experts)
        for linear in linears:
            linear.register_forward_pre_hook(round_inputs)
            linear.register_forward_hook(round_output)


def rounded_experts(experts):
    def forward(rows, top_k_index, top_k_weights):
        output = torch.zeros_like(rows)
        for token, row in enumerate(rows):
            for expert, weight in zip(top_k_index[token], top_k_weights[token]):
                gate, up = (experts.gate_up_proj[expert] @ row).chunk(2)
                hidden = to_bfloat16(torch.nn.functional.silu(gate) * up)
                output[token] += weight * to_bfloat16(experts.down_proj[expert] @ hidden)
        return output

    return forward


def greedy_margin(logits):
    best = logits[-1].topk(2).values
    return ((best[0] - best[1]) / logits[-1].square().mean().sqrt()).item()


def make_prompt(case, model, routers, generator):
    """A prompt and its greedy continuation, all choices clear; None where it runs into a tie."""
    ids = [1]
    while len(ids) < PROMPT_TOKENS + GREEDY_TOKENS:
        tries = 0
        while True:
            tries += 1
            decoding = len(ids) >= PROMPT_TOKENS
            logits = forward(model, routers, ids) if decoding else None
            if decoding and (greedy_margin(logits) < MIN_GREEDY_MARGIN):
                return None
            token = (logits[-1].argmax().item() if decoding else
                     torch.randint(3, case.fields["vocab_size"], (), generator=generator).item())
            forward(model, routers, ids + [token])
            if not case.mixtral or routers.margin(case.top_k) >= MIN_ROUTER_MARGIN:
                break
            if decoding or tries > 200:
                return None
        ids.append(token)
    return ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:]


def rounded(tensor, digits=7):
    return [float(f"{x:.{digits}g}") for x in tensor.tolist()]


def write_random_model(case, seed):
    torch.manual_seed(seed)
    directory = DATA / case.name
    shutil.rmtree(directory, ignore_errors=True)
    model = make_model(case)
    model.save_pretrained(directory, max_shard_size="120KB" if case.shards else "5GB")
    (directory / "generation_config.json").unlink(missing_ok=True)
    rewrite_config(case, directory)
    for file in directory.iterdir():
        file.chmod(0o644)

    # Read back what was written, old config forms included.
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    routers = Routers(model)
    generator = torch.Generator().manual_seed(seed)
    made = None
    while made is None:
        made = make_prompt(case, model, routers, generator)
    prompt, greedy = made
    logits = forward(model, routers, prompt)
    golden = {
        "made_by": "tests/tools/make_goldens.py",
        "prompt": prompt,
        "greedy": greedy,
        "logits": [rounded(row) for row in logits],
    }
    round_as_intermix(model)
    golden["rounded_logits"] = [rounded(row) for row in forward(model, routers, prompt)]
    write_json(directory / "golden.json", golden)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{case.name}: {size / 1024:.0f} KiB, logits RMS {logits.square().mean().sqrt():.3f}, "
          f"greedy {greedy}")


def write_json(path, value):
    """One line for each entry, so that the file can be read and compared."""
    lines = []
    for key, entry in value.items():
        text = json.dumps(entry)
        if entry and isinstance(entry, list) and isinstance(entry[0], (list, dict)):
            text = "[\n" + ",\n".join("  " + json.dumps(row) for row in entry) + "\n ]"
        lines.append(f' "{key}": {text}')
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_rope():
    cases = [
        (16, rope(10000.0)),
        (24, rope(500000.0)),
        (32, rope(1000000.0, "linear", factor=2.0)),
        (16, rope(10000.0, "linear", factor=4.0)),
        (128, llama3(500000.0, 8.0, 8192)),
        (24, llama3(500000.0, 4.0, 64)),
    ]
    positions = [0, 1, 2, 15, 16, 63, 100, 255]
    tables = []
    for head_dim, parameters in cases:
        config = transformers.LlamaConfig(
            hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim,
            max_position_embeddings=131072, rope_parameters=dict(parameters))
        table = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        cos, sin = table(torch.zeros(1), torch.tensor([positions]))
        tables.append({
            "head_dim": head_dim,
            "rope_parameters": parameters,
            "positions": positions,
            "cos": [rounded(row[: head_dim // 2], 8) for row in cos[0]],
            "sin": [rounded(row[: head_dim // 2], 8) for row in sin[0]],
        })
    write_json(DATA / "golden" / "rope.json", {
        "made_by": "tests/tools/make_goldens.py; float32, so good to about 1e-7 x position",
        "tables": tables,
    })


def check_tiny_mixtral():
    golden = json.loads((DATA / "golden" / "tiny-mixtral.json").read_text())
    directory = DATA / "tiny-mixtral"
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
    routers = Routers(model)
    for prompt in golden["prompts"]:
        ids = [1] + tokenizer.encode(prompt["text"])
        assert ids == prompt["ids"], prompt["text"]
        logits = forward(model, routers, ids)[-1]
        for token, value in prompt["last_logits_top20"]:
            assert abs(logits[token].item() - value) < 1e-3, (prompt["text"], token)
        assert abs(logits.logsumexp(0).item() - prompt["logsumexp"]) < 1e-3
        for layer, (experts, weights) in zip(routers.logits, prompt["router_last_token"]):
            top = layer[-1].topk(len(experts))
            assert top.indices.tolist() == experts
            assert (top.values.softmax(0) - torch.tensor(weights)).abs().max() < 1e-4
        for token in prompt["greedy32"]:
            assert forward(model, routers, ids)[-1].argmax().item() == token
            ids.append(token)
    windows = window_nlls(model, tokenizer, DATA / golden["perplexity"]["text"])
    tokens = sum(count for count, _ in windows)
    value = math.exp(sum(nll for _, nll in windows) / tokens)
    print(f"perplexity {value:.6f} over {tokens} tokens; golden {golden['perplexity']['value']}")
    assert tokens == golden["perplexity"]["tokens"]
    assert abs(value / golden["perplexity"]["value"] - 1) < 1e-5
    print(f"tiny-mixtral.json: {len(golden['prompts'])} prompts and the perplexity agree")


def window_nlls(model, tokenizer, path, window=512, limit=None):
    """(tokens, summed negative log likelihood) of each window, scored as [BOS] + window."""
    ids = tokenizer.encode(path.read_text(encoding="utf-8"))
    sums = []
    with torch.no_grad():
        for begin in range(0, len(ids), window)[:limit]:
            row = torch.tensor([[1] + ids[begin:begin + window]])
            logits = model(row).logits[0, :-1].double()
            nll = -logits.log_softmax(-1).gather(1, row[0, 1:, None]).sum().item()
            sums.append((row.shape[1] - 1, nll))
    return sums


def write_tiny_mixtral_windows():
    directory = DATA / "tiny-mixtral"
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
    text = "text/kjv-heldout.txt"
    windows = window_nlls(model, tokenizer, DATA / text, limit=4)
    write_json(DATA / "golden" / "tiny-mixtral-windows.json", {
        "made_by": "tests/tools/make_goldens.py",
        "text": text,
        "definition": "[tokens, summed negative log likelihood] of the first windows of the "
                      "perplexity that tiny-mixtral.json defines",
        "windows": [[count, round(nll, 4)] for count, nll in windows],
    })


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="recompute tiny-mixtral.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.check:
        check_tiny_mixtral()
        return
    for seed, case in enumerate(CASES, start=1):
        write_random_model(case, seed)
    write_rope()
    write_tiny_mixtral_windows()


if __name__ == "__main__":
    main()
