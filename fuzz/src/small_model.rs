//! The models that inputs are applied to, or stand for: as small as a model can be, so that an input is mostly what it is about.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use easyedit::LanguageModel;
use easyedit::models::tiny::{tiny_model_from, tiny_tokenizer};
use easyedit::models::{ModelConfig, Result, Shape, TensorSource, load_model, new_config};
use serde_json::{Value, json};

/// The token that ends a text.
const END_OF_TEXT: u32 = 256;

/// A `config.json`.
pub(crate) fn config(family: &str) -> Value {
    // Half of a head's dimensions are rotated in one family, in pairs.
    let (heads, head_dim) = if family == "chatglm" { (1, 4) } else { (2, 2) };
    let shape = Shape { vocab_size: 258, d_model: 4, d_mlp: 6, n_layers: 2, heads, kv_heads: heads, head_dim, max_positions: 64 };
    let mut config = new_config(family, &shape).unwrap();
    for key in ["bos_token_id", "eos_token_id"] {
        config[key] = json!(END_OF_TEXT);
    }
    config["tie_word_embeddings"] = json!(true);
    config
}

/// The decoder that edits, adapters and dumps are tried on.
pub(crate) fn model() -> &'static dyn LanguageModel {
    thread_local! {
        static MODEL: &'static dyn LanguageModel = Box::leak(tiny_model_from(config("llama"), 1, &device()).unwrap());
    }
    MODEL.with(|model| *model)
}

pub(crate) fn device() -> burn::tensor::Device {
    easyedit::device::select("cpu").unwrap()
}

/// The text of its `tokenizer.json`.
pub(crate) fn tokenizer_json() -> String {
    tiny_tokenizer().unwrap().inner().to_string(false).unwrap()
}

/// Name, shape and values of every tensor of a model.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The tensors that a model with this configuration reads.
pub(crate) fn tensors(config: &Value) -> Tensors {
    let source = Recorder::default();
    let config = ModelConfig::new(config.clone(), "config.json").unwrap();
    load_model(&config, "small", &source, tiny_tokenizer().unwrap(), &device()).unwrap();
    source.read.into_inner()
}

/// Makes up tensors of every name, and remembers them.
#[derive(Default)]
struct Recorder {
    read: RefCell<Tensors>,
}

impl TensorSource for Recorder {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 7 + name.len()) % 11) as f32 * 0.1 - 0.45).collect();
        self.read.borrow_mut().insert(name.to_owned(), (shape.to_vec(), values.clone()));
        Ok(values)
    }

    fn path(&self) -> &Path {
        Path::new("made up")
    }
}
