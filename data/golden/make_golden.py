"""Makes the golden folders beside this file: tiny seeded checkpoints and what PyTorch computes with them.

    python data/golden/make_golden.py

Needs torch 2.4.1, transformers 4.46.3 and safetensors; the same versions give the same bytes. See README.md for the format.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    T5Config,
    T5ForConditionalGeneration,
)

HERE = Path(__file__).resolve().parent
SEED = 20231024
VOCAB = 80
LENGTH, SHORT = 9, 6
PAD = 1
DECODER_LENGTH = 5
EAGER = {"attn_implementation": "eager"}
NO_IDS = {"bos_token_id": 0, "eos_token_id": 0}


def initialise(model, seed):
    """Weights in the order of named_parameters(), rounded to f16 so that the files hold exactly what is computed with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                value = 0.2 * draw
            elif name.endswith("weight"):
                value = 1 + 0.1 * draw
            else:
                value = 0.1 * draw
            parameter.copy_(value.half().float())
    return model.eval()


def inputs(seed):
    """Two rows, the second shorter and padded on the right."""
    generator = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(2, VOCAB, (2, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, SHORT:] = 0
    ids[1, SHORT:] = PAD
    return ids, mask


def next_token_loss(logits, ids):
    return F.cross_entropy(logits[:-1], ids[1:])


def run_decoder(model, ids, mask):
    """A causal language model: logits, hidden states, and the gradient of row 0's loss."""
    out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    out.hidden_states[1].retain_grad()
    loss = next_token_loss(out.logits[0], ids[0])
    loss.backward()
    golden = {f"hidden_{i}": hidden for i, hidden in enumerate(out.hidden_states)}
    return golden | {"logits": out.logits, "loss_row0": loss.reshape(1), "grad_hidden_1": out.hidden_states[1].grad}


def run_t5(model, ids, mask):
    """An encoder-decoder: what the decoder is given is drawn too; its first id is the start token."""
    generator = torch.Generator().manual_seed(SEED + 2)
    decoder_ids = torch.randint(2, VOCAB, (2, DECODER_LENGTH), generator=generator)
    decoder_ids[:, 0] = 0
    out = model(
        input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, output_hidden_states=True, use_cache=False
    )
    out.decoder_hidden_states[1].retain_grad()
    out.encoder_last_hidden_state.retain_grad()
    loss = next_token_loss(out.logits[0], decoder_ids[0])
    loss.backward()
    golden = {f"encoder_hidden_{i}": hidden for i, hidden in enumerate(out.encoder_hidden_states)}
    golden |= {f"decoder_hidden_{i}": hidden for i, hidden in enumerate(out.decoder_hidden_states)}
    return golden | {
        "decoder_input_ids": decoder_ids,
        "encoder_last_hidden_state": out.encoder_last_hidden_state,
        "logits": out.logits,
        "loss_row0": loss.reshape(1),
        "grad_decoder_hidden_1": out.decoder_hidden_states[1].grad,
        "grad_encoder_last_hidden_state": out.encoder_last_hidden_state.grad,
    }


def run_encoder(model, ids, mask):
    """An encoder, with a masked-language head if it has one."""
    out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    out.hidden_states[1].retain_grad()
    last = out.hidden_states[-1]
    weights = mask[:, :, None].float()
    pooled = (last * weights).sum(1) / weights.sum(1)
    golden = {f"hidden_{i}": hidden for i, hidden in enumerate(out.hidden_states)}
    golden |= {"last_hidden_state": last, "mean_pooled": pooled, "sentence_embedding": F.normalize(pooled, dim=1)}
    if hasattr(out, "logits"):
        loss = F.cross_entropy(out.logits[0], ids[0])
        golden["logits"] = out.logits
    else:
        loss = (pooled[0] * torch.arange(1, pooled.shape[1] + 1) / pooled.shape[1]).sum()
    loss.backward()
    return golden | {"loss_row0": loss.reshape(1), "grad_hidden_1": out.hidden_states[1].grad}


LOSSES = {
    run_decoder: "loss_row0: mean cross-entropy of logits[0, t] with input_ids[0, t + 1]",
    run_t5: "loss_row0: mean cross-entropy of logits[0, t] with decoder_input_ids[0, t + 1]",
    run_encoder: "loss_row0: mean cross-entropy of logits[0, t] with input_ids[0, t] (not shifted); "
    "without logits: sum over i of mean_pooled[0, i] * (i + 1) / width",
}


def stored_weights(model):
    """The state dict as a checkpoint stores it: tied tensors once, no tables that are computed."""
    stored, seen = {}, set()
    for name, parameter in model.named_parameters():
        if parameter.data_ptr() not in seen:
            seen.add(parameter.data_ptr())
            stored[name] = parameter.detach()
    return stored


def write(name, config, weights, golden, ids, mask, loss):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(VOCAB)}, "unk_token": "w0"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, separators=(",", ":")) + "\n")
    half = {key: value.half().contiguous().clone() for key, value in weights.items()}
    for key, value in weights.items():
        assert torch.equal(half[key].float(), value), f"{key} is not exact in f16"
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    tensors = {"input_ids": ids, "attention_mask": mask} | golden
    tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    for key, value in tensors.items():
        assert value.dtype == torch.int64 or value.isfinite().all(), key
    # One key: the order of several would differ from run to run.
    made = {"loss": loss, "seed": SEED, "torch": torch.__version__, "transformers": transformers.__version__}
    metadata = {"made": json.dumps(made, sort_keys=True)}
    save_file(tensors, folder / "golden.safetensors", metadata=metadata)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB, |logits| up to {golden.get('logits', golden.get('last_hidden_state')).abs().max():.2f}")


def of_transformers(name, model, run):
    """A family that transformers implements."""
    ids, mask = inputs(SEED)
    initialise(model, SEED)
    golden = run(model, ids, mask)
    config = model.config.to_diff_dict()
    config.pop("_attn_implementation_autoset", None)
    config |= {"architectures": [type(model).__name__], "torch_dtype": "float16"}
    config = {key: config[key] for key in sorted(config)}
    write(name, config, stored_weights(model), golden, ids, mask, LOSSES[run])


def derived(name, model, config, rename):
    """A family whose code is not in transformers, but which computes what `model` computes with tensors named otherwise."""
    ids, mask = inputs(SEED)
    initialise(model, SEED)
    golden = run_decoder(model, ids, mask)
    write(name, config, rename(stored_weights(model)), golden, ids, mask, LOSSES[run_decoder])


def fuse(weights, pattern, parts, fused):
    """Replaces `pattern` with each of `parts` filled in by their concatenation under `fused`."""
    weights[fused] = torch.cat([weights.pop(pattern.format(part)) for part in parts])


def baichuan_names(weights, layers=2):
    for layer in range(layers):
        base = f"model.layers.{layer}.self_attn."
        fuse(weights, base + "{}_proj.weight", "qkv", base + "W_pack.weight")
    return weights


def chatglm_names(weights, layers=2):
    renamed = {
        "transformer.embedding.word_embeddings.weight": weights["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": weights["model.norm.weight"],
        "transformer.output_layer.weight": weights["lm_head.weight"],
    }
    for layer in range(layers):
        old, new = f"model.layers.{layer}.", f"transformer.encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = [weights[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"{new}self_attention.query_key_value.{kind}"] = torch.cat(parts)
        for ours, theirs in (
            ("self_attn.o_proj", "self_attention.dense"),
            ("mlp.gate_up_proj", "mlp.dense_h_to_4h"),
            ("mlp.down_proj", "mlp.dense_4h_to_h"),
            ("input_layernorm", "input_layernorm"),
            ("post_attention_layernorm", "post_attention_layernorm"),
        ):
            renamed[f"{new}{theirs}.weight"] = weights[f"{old}{ours}.weight"]
    return renamed


def alibi_slopes(heads):
    """Press et al. 2022: a geometric series for a power of two, else that of the power below and every second of the one above."""
    if math.log2(heads).is_integer():
        start = 2 ** (-8 / heads)
        return [start ** (i + 1) for i in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return alibi_slopes(below) + alibi_slopes(2 * below)[0::2][: heads - below]


class Baichuan13B(torch.nn.Module):
    """Baichuan-13B, written from its description: RMS norm, one fused projection, ALiBi instead of rotary positions."""

    def __init__(self, d, d_mlp, heads, layers, epsilon):
        super().__init__()
        self.heads, self.layers, self.epsilon = heads, layers, epsilon
        shapes = {"model.embed_tokens.weight": (VOCAB, d)}
        for layer in range(layers):
            base = f"model.layers.{layer}."
            shapes |= {
                base + "self_attn.W_pack.weight": (3 * d, d),
                base + "self_attn.o_proj.weight": (d, d),
                base + "mlp.gate_proj.weight": (d_mlp, d),
                base + "mlp.down_proj.weight": (d, d_mlp),
                base + "mlp.up_proj.weight": (d_mlp, d),
                base + "input_layernorm.weight": (d,),
                base + "post_attention_layernorm.weight": (d,),
            }
        shapes |= {"model.norm.weight": (d,), "lm_head.weight": (VOCAB, d)}
        self.weights = {name: torch.nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()}

    def named_parameters(self, *_, **__):
        return iter(self.weights.items())

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weights[name + ".weight"]

    def attention(self, x, base):
        rows, length, d = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, d // self.heads).transpose(1, 2)
            for part in (x @ self.weights[base + "W_pack.weight"].T).split(d, dim=-1)
        )
        position = torch.arange(length)
        distance = (position[None, :] - position[:, None]).float()
        bias = torch.tensor(alibi_slopes(self.heads))[:, None, None] * distance
        # The pads are on the right: causality alone hides them from every real token.
        bias = bias.masked_fill(distance > 0, -math.inf)
        mixed = (q @ k.transpose(2, 3) / math.sqrt(d // self.heads) + bias).softmax(-1) @ v
        return mixed.transpose(1, 2).reshape(rows, length, d) @ self.weights[base + "o_proj.weight"].T

    def mlp(self, x, base):
        gate, up, down = (self.weights[f"{base}{part}_proj.weight"].T for part in ("gate", "up", "down"))
        return (F.silu(x @ gate) * (x @ up)) @ down

    def forward(self, input_ids, **_):
        x = self.weights["model.embed_tokens.weight"][input_ids]
        hidden_states = []
        for layer in range(self.layers):
            hidden_states.append(x)
            base = f"model.layers.{layer}."
            x = x + self.attention(self.norm(x, base + "input_layernorm"), base + "self_attn.")
            x = x + self.mlp(self.norm(x, base + "post_attention_layernorm"), base + "mlp.")
        x = self.norm(x, "model.norm")
        hidden_states.append(x)
        logits = x @ self.weights["lm_head.weight"].T
        return transformers.modeling_outputs.CausalLMOutput(logits=logits, hidden_states=tuple(hidden_states))


def causal(config):
    return transformers.AutoModelForCausalLM.from_config(config, **EAGER)


def llama_like(**more):
    settings = dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, **NO_IDS,
    )  # fmt: skip
    return settings | more


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    gpt2 = dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **NO_IDS)
    of_transformers("gpt2", causal(GPT2Config(**gpt2, scale_attn_by_inverse_layer_idx=True)), run_decoder)
    of_transformers("gptj", causal(GPTJConfig(**gpt2, rotary_dim=4, tie_word_embeddings=False)), run_decoder)
    neo = GPTNeoConfig(
        vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=64, intermediate_size=64,
        attention_types=[[["global", "local"], 1]], window_size=3, **NO_IDS,
    )  # fmt: skip
    of_transformers("gpt_neo", causal(neo), run_decoder)
    neox = dict(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, rotary_pct=0.5, tie_word_embeddings=False, **NO_IDS,
    )  # fmt: skip
    of_transformers("gpt_neox", causal(GPTNeoXConfig(**neox, use_parallel_residual=True)), run_decoder)
    of_transformers("gpt_neox_sequential", causal(GPTNeoXConfig(**neox, use_parallel_residual=False)), run_decoder)
    of_transformers("llama", causal(LlamaConfig(**llama_like(), tie_word_embeddings=False)), run_decoder)
    scaling = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
    llama3 = LlamaConfig(**llama_like(), rope_scaling=scaling, rope_theta=500.0, tie_word_embeddings=True)
    of_transformers("llama3", causal(llama3), run_decoder)
    of_transformers("mistral", causal(MistralConfig(**llama_like(sliding_window=4), tie_word_embeddings=False)), run_decoder)
    of_transformers("qwen2", causal(Qwen2Config(**llama_like(), tie_word_embeddings=True)), run_decoder)
    opt = OPTConfig(
        vocab_size=VOCAB, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        word_embed_proj_dim=32, dropout=0.0, pad_token_id=PAD, **NO_IDS,
    )  # fmt: skip
    of_transformers("opt", causal(opt), run_decoder)

    t5 = dict(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, relative_attention_num_buckets=8,
        relative_attention_max_distance=6, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    plain = T5Config(**t5, feed_forward_proj="relu", tie_word_embeddings=True)
    of_transformers("t5", T5ForConditionalGeneration(plain), run_t5)
    gated = T5Config(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    of_transformers("t5_v1_1", T5ForConditionalGeneration(gated), run_t5)

    distilbert = DistilBertConfig(vocab_size=VOCAB, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=64)
    of_transformers("distilbert", AutoModel.from_config(distilbert, **EAGER), run_encoder)
    bert = BertConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
    )
    of_transformers("bert", BertForMaskedLM._from_config(bert, **EAGER), run_encoder)

    sizes = dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        hidden_act="silu", rms_norm_eps=1e-6, torch_dtype="float16", tie_word_embeddings=False, **NO_IDS,
    )  # fmt: skip
    whole = LlamaConfig(**llama_like(num_key_value_heads=4), tie_word_embeddings=False)
    baichuan = sizes | {"model_type": "baichuan", "architectures": ["BaiChuanForCausalLM"], "max_position_embeddings": 64}
    derived("baichuan", causal(whole), baichuan, baichuan_names)
    biased = LlamaConfig(**llama_like(num_key_value_heads=4), attention_bias=True, tie_word_embeddings=False)
    internlm = sizes | {"model_type": "internlm", "architectures": ["InternLMForCausalLM"], "bias": True, "max_position_embeddings": 64}
    derived("internlm", causal(biased), internlm, dict)
    glm = GlmConfig(
        **llama_like(), head_dim=8, attention_bias=True, rms_norm_eps=1e-5, tie_word_embeddings=False, pad_token_id=PAD
    )
    chatglm = {
        "model_type": "chatglm", "architectures": ["ChatGLMModel"], "padded_vocab_size": VOCAB, "hidden_size": 32,
        "ffn_hidden_size": 64, "num_layers": 2, "num_attention_heads": 4, "kv_channels": 8, "multi_query_attention": True,
        "multi_query_group_num": 2, "add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True, "layernorm_epsilon": 1e-5,
        "seq_length": 64, "post_layer_norm": True, "apply_residual_connection_post_layernorm": False, "original_rope": True,
        "torch_dtype": "float16", "tie_word_embeddings": False,
    }  # fmt: skip
    derived("chatglm2", GlmForCausalLM._from_config(glm, **EAGER), chatglm, chatglm_names)
    baichuan_13b = sizes | {
        "model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "hidden_size": 48, "num_attention_heads": 6,
        "model_max_length": 64,
    }  # fmt: skip
    derived("baichuan_13b", Baichuan13B(48, 64, 6, 2, 1e-6), baichuan_13b, dict)


if __name__ == "__main__":
    main()
