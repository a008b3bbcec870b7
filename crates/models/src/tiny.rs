//! Tiny randomly initialised models, made in code: for tests of this workspace.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use easyedit_core::{LanguageModel, Tokenizer, write_atomically};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerImpl};

use crate::{Error, ModelConfig, Result, SINGLE_FILE, SafetensorsSource, Shape, TensorSource, WeightType, load_model, new_config};

/// The token that ends a text, and its id; the ids below it are the bytes'.
const END_OF_TEXT: (&str, u32) = ("<|endoftext|>", 256);
/// Rows of the embedding: a few more than there are tokens, as in many checkpoints.
const VOCABULARY: usize = 260;
/// Longest text, in bytes.
const POSITIONS: usize = 512;

/// A tiny model of a family: 3 layers of width 32 with random weights, the same for the same seed, and the tokenizer of
/// [`tiny_tokenizer`]. `family` is a `model_type`.
///
/// # Errors
///
/// [`Error::Unsupported`] if there is no such family.
pub fn tiny_model(family: &str, seed: u64) -> Result<Box<dyn LanguageModel>> {
    let device = easyedit_core::device::select("cpu")?;
    tiny_model_from(tiny_config(family)?, seed, &device)
}

/// A randomly initialised model of any configuration, with the tokenizer of [`tiny_tokenizer`].
///
/// # Errors
///
/// As [`load_model`].
pub fn tiny_model_from(config: Value, seed: u64, device: &Device) -> Result<Box<dyn LanguageModel>> {
    let config = ModelConfig::new(config, "config.json")?;
    let name = format!("tiny-{}", config.model_type());
    load_model(&config, &name, &RandomTensors { seed, read: None }, tiny_tokenizer()?, device)
}

/// The `config.json` of the tiny model of a family.
///
/// # Errors
///
/// [`Error::Unsupported`] if there is no such family.
pub fn tiny_config(family: &str) -> Result<Value> {
    let shape =
        Shape { vocab_size: VOCABULARY, d_model: 32, d_mlp: 64, n_layers: 3, heads: 4, kv_heads: 4, head_dim: 8, max_positions: POSITIONS };
    let shape = match family {
        "llama" | "mistral" | "qwen2" | "chatglm" => Shape { kv_heads: 2, ..shape },
        _ => shape,
    };
    let mut config = new_config(family, &shape)?;
    if let Some(keys) = config.as_object_mut() {
        keys.insert("bos_token_id".into(), END_OF_TEXT.1.into());
        keys.insert("eos_token_id".into(), END_OF_TEXT.1.into());
        if keys.contains_key("decoder_start_token_id") {
            keys.insert("decoder_start_token_id".into(), END_OF_TEXT.1.into());
        }
        // What makes a family special shows at this size.
        let (key, value) = match family {
            "mistral" => ("sliding_window", json!(6)),
            "gptj" => ("rotary_dim", json!(4)),
            "gpt_neox" => ("rotary_pct", json!(0.5)),
            "gpt_neo" => {
                keys.insert("window_size".into(), 6.into());
                ("attention_types", json!([[["global", "local"], 1], [["global"], 1]]))
            }
            "opt" => ("word_embed_proj_dim", json!(32)),
            _ => ("use_cache", json!(true)),
        };
        keys.insert(key.into(), value);
    }
    Ok(config)
}

/// A tokenizer with one token for every byte, so that any text encodes, and one that ends a text.
///
/// # Errors
///
/// [`easyedit_core::Error::Tokenizer`] if the tokenizers crate refuses it.
pub fn tiny_tokenizer() -> Result<Tokenizer> {
    let failed = |e: &dyn std::fmt::Display| Error::Core(easyedit_core::Error::Tokenizer(format!("cannot build the byte tokenizer: {e}")));
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab = alphabet.into_iter().map(String::from).zip(0u32..).collect::<Vec<_>>();
    let model = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), Vec::new())
        .build()
        .map_err(|e| failed(&e))?;
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = TokenizerImpl::<BPE, tokenizers::NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new(model);
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_post_processor(Some(byte_level)).with_decoder(Some(byte_level));
    tokenizer.add_special_tokens(&[AddedToken::from(END_OF_TEXT.0, true)]);
    let json = serde_json::to_string(&tokenizer).map_err(|e| failed(&e))?;
    let tokenizer = json.parse::<tokenizers::Tokenizer>().map_err(|e| failed(&e))?;
    Ok(Tokenizer::new(tokenizer, vec![END_OF_TEXT.1]))
}

/// Writes the tiny model of a family as a Hugging Face folder: `config.json`, `model.safetensors` (f32), `tokenizer.json`.
///
/// # Errors
///
/// As [`tiny_model`], and if the folder cannot be written.
pub fn write_tiny_checkpoint(family: &str, seed: u64, folder: &Path) -> Result<()> {
    let config = tiny_config(family)?;
    let device = easyedit_core::device::select("cpu")?;
    let tokenizer = tiny_tokenizer()?;
    let tensors = RandomTensors { seed, read: Some(RefCell::default()) };
    load_model(&ModelConfig::new(config.clone(), folder.join("config.json"))?, family, &tensors, tokenizer.clone(), &device)?;

    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let write = |name: &str, bytes: &[u8]| write_atomically(&folder.join(name), |file| file.write_all(bytes)).map_err(Error::Core);
    write("config.json", format!("{config:#}\n").as_bytes())?;
    let text = tokenizer.inner().to_string(true).map_err(|e| Error::format(folder.join("tokenizer.json"), e.to_string()))?;
    write("tokenizer.json", text.as_bytes())?;
    let special = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT.0, "bos_token": END_OF_TEXT.0});
    write("tokenizer_config.json", format!("{special:#}\n").as_bytes())?;

    let path = folder.join("model.safetensors");
    let broken = |e: safetensors::SafeTensorError| Error::format(&path, e.to_string());
    let read = tensors.read.unwrap_or_default().into_inner();
    let mut views = Vec::new();
    for (name, (shape, values)) in &read {
        views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).map_err(broken)?));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    write("model.safetensors", &safetensors::serialize(views, Some(metadata)).map_err(broken)?)
}

/// Writes the checkpoint in `from` to the folder `to` with all of its floating-point tensors in `kind`, in one file.
///
/// # Errors
///
/// If the checkpoint is damaged, or the folder cannot be written.
pub fn convert_checkpoint(from: &Path, to: &Path, kind: WeightType) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|e| Error::io("create", to, e))?;
    for (name, bytes) in crate::companions::carried_files(from, false)? {
        write_atomically(&to.join(name), |file| file.write_all(&bytes))?;
    }
    let source = SafetensorsSource::open(from)?;
    let path = to.join(SINGLE_FILE);
    let broken = |e: safetensors::SafeTensorError| Error::format(&path, e.to_string());
    let mut parts = Vec::new();
    for (name, tensor) in source.tensors() {
        let bytes = kind.narrow(&source.read(name, &tensor.shape)?);
        parts.push((name, tensor.shape.clone(), bytes));
    }
    let dtype = match kind {
        WeightType::F32 => Dtype::F32,
        WeightType::F16 => Dtype::F16,
        WeightType::Bf16 => Dtype::BF16,
    };
    let mut views = Vec::with_capacity(parts.len());
    for (name, shape, bytes) in &parts {
        views.push((*name, TensorView::new(dtype, shape.clone(), bytes).map_err(broken)?));
    }
    let bytes = safetensors::serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).map_err(broken)?;
    Ok(write_atomically(&path, |file| file.write_all(&bytes))?)
}

/// Tensors that were drawn, by name: their shapes and values.
type Drawn = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Tensors of every name, drawn at random: gains around 1, biases around 0.
struct RandomTensors {
    seed: u64,
    /// What was read, if it is to be remembered.
    read: Option<RefCell<Drawn>>,
}

impl TensorSource for RandomTensors {
    fn names(&self) -> Vec<String> {
        self.read.iter().flat_map(|read| read.borrow().keys().cloned().collect::<Vec<_>>()).collect()
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        // Seeded by name, so that the order of reading does not matter.
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(name);
        let mut rng = StdRng::from_seed(hash.finalize().into());
        let (centre, spread) = match (shape.len(), name.ends_with(".bias")) {
            (1, false) => (1.0, 0.1),
            (1, true) => (0.0, 0.05),
            _ => (0.0, 0.2),
        };
        let count = shape.iter().product();
        // A sum of uniform draws is normal enough, and needs no logarithm.
        let mut normal = || (0..6).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() * 2f32.sqrt();
        let values: Vec<f32> = (0..count).map(|_| centre + spread * normal()).collect();
        if let Some(read) = &self.read {
            read.borrow_mut().insert(name.to_owned(), (shape.to_vec(), values.clone()));
        }
        Ok(values)
    }

    fn path(&self) -> &Path {
        Path::new("random weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_encodes_byte_by_byte_and_comes_back() {
        let tokenizer = tiny_tokenizer().unwrap();
        for text in ["The Eiffel Tower is in Paris", "Zürich 東京 🙂\n\t ok", " leading"] {
            let encoding = tokenizer.encode(text).unwrap();
            assert_eq!(encoding.ids.len(), text.len());
            assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), text);
            assert_eq!(encoding.spans.last().unwrap().end, text.len());
        }
        assert_eq!(tokenizer.encode(END_OF_TEXT.0).unwrap().ids, [END_OF_TEXT.1]);
        assert_eq!((tokenizer.id_bound(), tokenizer.eos()), (257, &[256][..]));
    }

    #[test]
    fn seeds_decide_the_weights() {
        let weight = |seed| {
            let model = tiny_model("llama", seed).unwrap();
            model.weight(&model.spec().mlp_out_weight(1)).unwrap().into_data()
        };
        assert_eq!(weight(7), weight(7));
        assert_ne!(weight(7), weight(8));
        assert!(tiny_model("mamba", 0).is_err());
    }
}
