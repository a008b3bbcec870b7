//! GGUF files made in tests.

use std::path::PathBuf;

use super::types::TensorType;

/// Builds a GGUF file; unless told otherwise a valid one.
#[derive(Clone, Default)]
pub(super) struct TestFile {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

pub(super) fn bytes_of(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl TestFile {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A pair with a value as it is in the file.
    pub(super) fn raw(mut self, key: &[u8], kind: u32, value: &[u8]) -> Self {
        self.pairs.push([&(key.len() as u64).to_le_bytes()[..], key, &kind.to_le_bytes(), value].concat());
        self
    }

    pub(super) fn text(self, key: &str, value: &str) -> Self {
        self.raw(key.as_bytes(), 8, &bytes_of(value))
    }

    pub(super) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key.as_bytes(), 4, &value.to_le_bytes())
    }

    pub(super) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key.as_bytes(), 6, &value.to_le_bytes())
    }

    pub(super) fn flag(self, key: &str, value: bool) -> Self {
        self.raw(key.as_bytes(), 7, &[u8::from(value)])
    }

    fn array(self, key: &str, element: u32, count: usize, bytes: &[u8]) -> Self {
        self.raw(key.as_bytes(), 9, &[&element.to_le_bytes()[..], &(count as u64).to_le_bytes(), bytes].concat())
    }

    pub(super) fn texts(self, key: &str, values: &[&str]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| bytes_of(value)).collect();
        self.array(key, 8, values.len(), &bytes)
    }

    pub(super) fn i32s(self, key: &str, values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 5, values.len(), &bytes)
    }

    pub(super) fn f32_array(self, key: &str, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 6, values.len(), &bytes)
    }

    /// A tensor of row-major `shape`.
    pub(super) fn tensor(mut self, name: &str, shape: &[u64], kind: TensorType, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let dims = shape.iter().rev().copied().collect();
        self.tensors.push((name.to_owned(), dims, kind.id(), self.data.len() as u64));
        self.data.extend_from_slice(data);
        self
    }

    /// Only a tensor's description, as it is in the file.
    pub(super) fn described(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push((name.to_owned(), dims.to_vec(), kind, offset));
        self
    }

    pub(super) fn f32s(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, shape, TensorType::F32, &bytes)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.concat());
        for (name, dims, kind, offset) in &self.tensors {
            out.extend(bytes_of(name));
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    /// Writes the file into a new folder, which lives as long as the handle.
    pub(super) fn write(&self) -> (tempfile::TempDir, PathBuf) {
        write_bytes(&self.bytes())
    }
}

pub(super) fn write_bytes(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// A llama of one layer, 4 wide, with one head, and a byte-level vocabulary.
pub(super) fn tiny_llama() -> TestFile {
    tiny_llama_embedding(9)
}

/// The same with embeddings for `tokens` of its nine tokens.
pub(super) fn tiny_llama_embedding(tokens: usize) -> TestFile {
    tiny_llama_claiming(tokens, 1)
}

/// The same, which says that it has `layers` layers.
pub(super) fn tiny_llama_claiming(tokens: usize, layers: u32) -> TestFile {
    let counted = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<_>>();
    TestFile::new()
        .text("general.architecture", "llama")
        .u32("llama.block_count", layers)
        .u32("llama.context_length", 16)
        .u32("llama.embedding_length", 4)
        .u32("llama.feed_forward_length", 3)
        .u32("llama.attention.head_count", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .f32("llama.rope.freq_base", 100_000.0)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &["<|end|>", "a", "b", "Ġ", "ab", "Ġab", "1", "2", "12"])
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1, 1, 1, 1, 1])
        .texts("tokenizer.ggml.merges", &["a b", "Ġ ab", "1 2"])
        .u32("tokenizer.ggml.eos_token_id", 0)
        .f32s("token_embd.weight", &[tokens as u64, 4], &counted(4 * tokens))
        .f32s("output_norm.weight", &[4], &counted(4))
        .f32s("blk.0.attn_norm.weight", &[4], &counted(4))
        .f32s("blk.0.ffn_norm.weight", &[4], &counted(4))
        .f32s("blk.0.attn_q.weight", &[4, 4], &counted(16))
        .f32s("blk.0.attn_k.weight", &[4, 4], &counted(16))
        .f32s("blk.0.attn_v.weight", &[4, 4], &counted(16))
        .f32s("blk.0.attn_output.weight", &[4, 4], &counted(16))
        .f32s("blk.0.ffn_gate.weight", &[3, 4], &counted(12))
        .f32s("blk.0.ffn_up.weight", &[3, 4], &counted(12))
        .f32s("blk.0.ffn_down.weight", &[4, 3], &counted(12))
}
