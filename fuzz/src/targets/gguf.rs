//! A GGUF file: weights, configuration and tokenizer in one.

use super::checkpoint::open_and_run;
use super::seed;
use super::texts::encode_and_decode;
use crate::formats::Gguf;
use crate::scratch::{file, folder};

pub(super) fn run(data: &[u8]) -> bool {
    let path = file(&folder("gguf"), "model.gguf", data);
    if let Ok(checkpoint) = easyedit::models::Checkpoint::open(&path)
        && let Ok(tokenizer) = checkpoint.tokenizer()
    {
        encode_and_decode(&tokenizer);
    }
    open_and_run(&path)
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![seed("llama", weights(llama()).bytes())];
    // Blocks: type, numbers in a block, bytes of a block.
    for (name, kind, numbers, bytes) in [
        ("f16", 1, 1, 2),
        ("q4_0", 2, 32, 18),
        ("q4_1", 3, 32, 20),
        ("q5_0", 6, 32, 22),
        ("q5_1", 7, 32, 24),
        ("q8_0", 8, 32, 34),
        ("q2_k", 10, 256, 84),
        ("q3_k", 11, 256, 110),
        ("q4_k", 12, 256, 144),
        ("q5_k", 13, 256, 176),
        ("q6_k", 14, 256, 210),
    ] {
        let file = llama().tensor("token_embd.weight", &[2, numbers], kind, &vec![0x11; 2 * bytes]);
        seeds.push(seed(name, file.bytes()));
    }
    let spm = base("llama").texts("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "▁a", "a", "b", "ab", "1", "2"]);
    let spm = spm.i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1, 1]).text("tokenizer.ggml.model", "llama");
    let spm = spm.numbers("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -1.5, -4.0, -5.0]);
    seeds.push(seed("sentencepiece", weights(spm).bytes()));
    seeds
}

fn base(architecture: &str) -> Gguf {
    Gguf::default()
        .text("general.architecture", architecture)
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 16)
        .u32("llama.embedding_length", 4)
        .u32("llama.feed_forward_length", 3)
        .u32("llama.attention.head_count", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .f32("llama.rope.freq_base", 100_000.0)
}

fn llama() -> Gguf {
    base("llama")
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &["<|end|>", "a", "b", "Ġ", "ab", "Ġab", "1", "2", "12"])
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1, 1, 1, 1, 1])
        .texts("tokenizer.ggml.merges", &["a b", "Ġ ab", "1 2"])
        .u32("tokenizer.ggml.eos_token_id", 0)
}

fn weights(file: Gguf) -> Gguf {
    file.f32s("token_embd.weight", &[9, 4])
        .f32s("output_norm.weight", &[4])
        .f32s("blk.0.attn_norm.weight", &[4])
        .f32s("blk.0.ffn_norm.weight", &[4])
        .f32s("blk.0.attn_q.weight", &[4, 4])
        .f32s("blk.0.attn_k.weight", &[4, 4])
        .f32s("blk.0.attn_v.weight", &[4, 4])
        .f32s("blk.0.attn_output.weight", &[4, 4])
        .f32s("blk.0.ffn_gate.weight", &[3, 4])
        .f32s("blk.0.ffn_up.weight", &[3, 4])
        .f32s("blk.0.ffn_down.weight", &[4, 3])
}
