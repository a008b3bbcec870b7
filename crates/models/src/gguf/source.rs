use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::dequant::{is_readable, unreadable};
use super::names::{Rows, halves_from_pairs, hugging_face_name};
use super::reader::{Gguf, TensorInfo};
use super::rope::{FACTORS, rope_scaling};
use super::special::SpecialTokens;
use crate::{Error, Result, TensorSource};

/// Larger numbers of layers, heads or dimensions are damage, not a model.
const MAX_SIZE: usize = 1 << 24;
/// Tensors that every block of a llama model has: four of attention, three of the MLP, two norms.
const BLOCK_TENSORS: usize = 9;

/// A language model of the llama architecture in a GGUF file, seen as a Hugging Face checkpoint.
///
/// Tensors have their Hugging Face names, row order and shapes; quantised ones are given as `f32`.
#[derive(Debug)]
pub struct GgufFile {
    file: Gguf,
    sizes: Sizes,
    tensors: BTreeMap<String, Entry>,
}

/// Where a Hugging Face tensor is in the file.
#[derive(Debug)]
struct Entry {
    name: String,
    rows: Rows,
}

#[derive(Debug)]
struct Sizes {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    context: usize,
    vocabulary: usize,
    rms_eps: f64,
    rope_theta: f64,
}

impl GgufFile {
    /// Opens a GGUF file that holds a language model.
    ///
    /// # Errors
    ///
    /// As [`Gguf::open`]; [`Error::Unsupported`] if the architecture is not plain llama; [`Error::Format`] naming a metadata key that
    /// is missing or impossible; [`Error::Tensor`] naming a tensor that is missing, or of a type that cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Gguf::open(path)?;
        match file.text("general.architecture")? {
            Some("llama") => {}
            other => {
                let what = other.map_or("of no named architecture".to_owned(), |name| format!("of architecture {name:?}"));
                return Err(Error::Unsupported(format!(
                    "{}: GGUF files {what} are not supported, only llama; use the model's Hugging Face folder",
                    path.display()
                )));
            }
        }
        if file.integer("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(Error::Unsupported(format!("{}: mixtures of experts are not supported", path.display())));
        }
        let sizes = Sizes::of(&file)?;
        let tensors = entries(&file, sizes.layers)?;
        Ok(Self { file, sizes, tensors })
    }

    /// The file as it is.
    pub fn gguf(&self) -> &Gguf {
        &self.file
    }

    /// `config.json` of the model, in Hugging Face's form.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the file asks for biases or a rotary scaling that the llama architecture of Hugging Face cannot say.
    pub fn config(&self) -> Result<Value> {
        let sizes = &self.sizes;
        let special = SpecialTokens::of(&self.file)?;
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": sizes.context,
            "vocab_size": sizes.vocabulary,
            "rms_norm_eps": sizes.rms_eps,
            "rope_theta": sizes.rope_theta,
            "rope_scaling": rope_scaling(&self.file, sizes.rope_theta, sizes.head_dim)?,
            "attention_bias": self.biased("self_attn", &["q_proj", "k_proj", "v_proj", "o_proj"])?,
            "mlp_bias": self.biased("mlp", &["gate_proj", "up_proj", "down_proj"])?,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "tie_word_embeddings": !self.tensors.contains_key("lm_head.weight"),
            "torch_dtype": "float32",
            "use_cache": true,
        });
        if let Some(object) = config.as_object_mut() {
            object.extend(special.config_entries());
        }
        Ok(config)
    }

    /// Whether all of a block's projections have biases.
    fn biased(&self, block: &str, projections: &[&str]) -> Result<bool> {
        let has = |layer: usize, projection: &str| self.tensors.contains_key(&format!("model.layers.{layer}.{block}.{projection}.bias"));
        let found = (0..self.sizes.layers).map(|layer| projections.iter().filter(|p| has(layer, p)).count()).sum::<usize>();
        match found {
            0 => Ok(false),
            all if all == self.sizes.layers * projections.len() => Ok(true),
            _ => Err(Error::Unsupported(format!(
                "{}: only some projections of {block} have biases, which Hugging Face's llama cannot hold; use the model's Hugging Face \
                 folder",
                self.file.path().display()
            ))),
        }
    }

    /// Shape of the tensor with the Hugging Face name `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).and_then(|entry| self.file.tensor(&entry.name)).map(|info| info.shape.as_slice())
    }

    fn checked(&self, name: &str, shape: &[usize]) -> std::result::Result<(&Entry, &TensorInfo), String> {
        let entry = self.tensors.get(name).ok_or("is missing; the file is not a whole llama model")?;
        let info = self.file.tensor(&entry.name).ok_or("is missing")?;
        if info.shape != shape {
            return Err(format!("has shape {:?}, but {shape:?} is needed", info.shape));
        }
        Ok((entry, info))
    }
}

impl TensorSource for GgufFile {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let broken = |message: String| Error::tensor(name, self.file.path(), message);
        let (entry, _) = self.checked(name, shape).map_err(broken)?;
        let (mut values, finite) = self.file.read(&entry.name)?;
        let heads = match entry.rows {
            Rows::Same => None,
            Rows::QueryHeads => Some(self.sizes.heads),
            Rows::KeyHeads => Some(self.sizes.kv_heads),
        };
        if let Some(heads) = heads {
            let rows = shape.first().copied().unwrap_or_default();
            values = halves_from_pairs(&values, rows, heads)
                .ok_or_else(|| broken(format!("has {rows} rows, which are not {heads} heads of an even size")))?;
        }
        if finite {
            return Ok(values);
        }
        let index = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
        Err(broken(format!("holds a number that is not finite, at place {index}")))
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}

impl Sizes {
    fn of(file: &Gguf) -> Result<Self> {
        let missing = |key: &str| Error::format(file.path(), format!("key {key} is missing"));
        let size = |key: &str| match file.integer(key)? {
            None => Err(missing(key)),
            Some(value @ 1..=MAX_SIZE) => Ok(value),
            Some(value) => Err(Error::format(file.path(), format!("key {key} is {value}; 1 to {MAX_SIZE} are possible"))),
        };
        let optional_size = |key: &str, default: usize| if file.has(key) { size(key) } else { Ok(default) };
        let positive = |key: &str, default: Option<f64>| {
            let value = file.number(key)?.or(default).ok_or_else(|| missing(key))?;
            if value > 0.0 { Ok(value) } else { Err(Error::format(file.path(), format!("key {key} is {value}; it must be positive"))) }
        };

        let (hidden, heads) = (size("llama.embedding_length")?, size("llama.attention.head_count")?);
        let kv_heads = optional_size("llama.attention.head_count_kv", heads)?;
        if heads % kv_heads != 0 {
            return Err(Error::format(
                file.path(),
                format!("key llama.attention.head_count_kv is {kv_heads}, which does not divide the {heads} heads"),
            ));
        }
        let head_dim = optional_size("llama.attention.key_length", hidden / heads)?;
        for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
            let value = optional_size(key, head_dim)?;
            if value != head_dim {
                return Err(Error::Unsupported(format!(
                    "{}: key {key} is {value}, but heads have {head_dim} dimensions; such models are not supported",
                    file.path().display()
                )));
            }
        }
        if !head_dim.is_multiple_of(2) || head_dim == 0 {
            return Err(Error::format(
                file.path(),
                format!("heads of {head_dim} dimensions cannot be rotated (keys llama.embedding_length and llama.attention.head_count)"),
            ));
        }
        let embedding = file.tensor("token_embd.weight").map(|info| info.shape.as_slice());
        let Some(&[vocabulary, _]) = embedding else {
            return Err(Error::tensor("token_embd.weight", file.path(), "is missing or is not a matrix"));
        };
        let layers = size("llama.block_count")?;
        let tensors = file.tensors().count();
        if layers > (tensors / BLOCK_TENSORS).max(1) {
            return Err(Error::format(
                file.path(),
                format!("key llama.block_count is {layers}, but the file holds {tensors} tensors, and each block has {BLOCK_TENSORS}"),
            ));
        }
        Ok(Self {
            layers,
            hidden,
            intermediate: size("llama.feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            context: size("llama.context_length")?,
            vocabulary,
            rms_eps: positive("llama.attention.layer_norm_rms_epsilon", None)?,
            rope_theta: positive("llama.rope.freq_base", Some(10_000.0))?,
        })
    }
}

/// All tensors under their Hugging Face names.
fn entries(file: &Gguf, layers: usize) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    for (name, info) in file.tensors().filter(|(name, _)| *name != FACTORS) {
        let Some((new_name, rows)) = hugging_face_name(name, layers) else {
            let message = format!("does not belong to a llama model of {layers} layers; use the model's Hugging Face folder");
            return Err(Error::tensor(name, file.path(), message));
        };
        if !is_readable(info.kind) {
            return Err(Error::tensor(name, file.path(), unreadable(info.kind)));
        }
        if let Some(twin) = entries.insert(new_name, Entry { name: name.to_owned(), rows }) {
            return Err(Error::tensor(name, file.path(), format!("is the same as tensor {}", twin.name)));
        }
    }
    Ok(entries)
}
