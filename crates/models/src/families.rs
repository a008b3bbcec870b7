use burn::tensor::Device;
use easyedit_core::{LanguageModel, ModuleNames, ParamName, Tokenizer, nearest_name};
use serde_json::{Map, Value};

use crate::loader::stored_under;
use crate::shape::ShapeKeys;
use crate::{Error, ModelConfig, Result, Shape, TensorSource, chatglm, gpt_neo, gpt_neox, gpt2, gptj, llama, opt, t5, text_encoder};

/// All that a model is loaded from.
pub(crate) struct ModelSource<'a> {
    pub(crate) config: &'a ModelConfig,
    /// What the model is called in messages.
    pub(crate) name: &'a str,
    pub(crate) tensors: &'a dyn TensorSource,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) device: &'a Device,
}

/// A family of models: one architecture, and what can be said of it.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Values of `model_type` in `config.json` that belong to it.
    pub model_types: &'static [&'static str],
    /// What it covers.
    pub description: &'static str,
    /// What its parameter names begin with, and some checkpoints leave out.
    pub(crate) base: &'static str,
    pub(crate) modules: fn(bool) -> ModuleNames,
    pub(crate) load: fn(ModelSource<'_>) -> Result<Box<dyn LanguageModel>>,
    pub(crate) keys: ShapeKeys,
    /// What the `config.json` of a new model of a type holds beside its sizes, `architectures` above all.
    pub(crate) new_config: fn(&str) -> Value,
}

impl Family {
    /// Names of its modules; with a tied head, the head is the embedding.
    pub fn modules(&self, tied_head: bool) -> ModuleNames {
        (self.modules)(tied_head)
    }
}

static FAMILIES: &[&Family] =
    &[&llama::FAMILY, &gpt2::FAMILY, &gptj::FAMILY, &gpt_neox::FAMILY, &gpt_neo::FAMILY, &opt::FAMILY, &chatglm::FAMILY, &t5::FAMILY];

/// All families, for listings.
pub fn families() -> &'static [&'static Family] {
    FAMILIES
}

/// The family of a `model_type`.
///
/// # Errors
///
/// [`Error::Unsupported`] with the known ones and the nearest.
pub fn family(model_type: &str) -> Result<&'static Family> {
    FAMILIES.iter().copied().find(|family| family.model_types.contains(&model_type)).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.model_types.iter().copied()).collect();
        let hint = nearest_name(model_type, known.iter().copied()).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
        Error::Unsupported(format!("models of type {model_type:?} are not supported{hint} (supported: {})", known.join(", ")))
    })
}

/// The `config.json` of a model that is yet to be trained, of type `model_type` and the given sizes.
///
/// # Errors
///
/// [`Error::Unsupported`] for an unknown family.
pub fn new_config(model_type: &str, shape: &Shape) -> Result<Value> {
    let family = family(model_type)?;
    let mut config = Map::from_iter([("model_type".to_owned(), model_type.into()), ("torch_dtype".to_owned(), "float32".into())]);
    config.extend(shape.write(&family.keys));
    if let Value::Object(more) = (family.new_config)(model_type) {
        config.extend(more);
    }
    Ok(config.into())
}

/// Loads a model: its weights are read from `tensors` one at a time, onto `device`. `name` is what it is called in messages.
///
/// # Errors
///
/// [`Error::Unsupported`] for an unknown family, [`Error::Format`] if the configuration does not hold together or the tokenizer
/// does not fit the vocabulary, [`Error::Tensor`] if a tensor is missing or misshapen.
pub fn load_model(
    config: &ModelConfig,
    name: &str,
    tensors: &dyn TensorSource,
    tokenizer: Tokenizer,
    device: &Device,
) -> Result<Box<dyn LanguageModel>> {
    let family = family(config.model_type())?;
    check_layers(config, family.keys.n_layers, tensors)?;
    (family.load)(ModelSource { config, name, tensors, tokenizer, device })
}

/// Checks a number of layers against the tensors that are stored, before anything is made for each layer.
pub(crate) fn check_layers(config: &ModelConfig, key: &str, tensors: &dyn TensorSource) -> Result<()> {
    let stored = tensors.names().len();
    // A source that makes its tensors up lists none.
    match config.optional_dimension(key)? {
        Some(layers) if stored > 0 && layers > stored => {
            Err(config.error(key, format!("is {layers}, but {} holds only {stored} tensors", tensors.path().display())))
        }
        _ => Ok(()),
    }
}

/// The name under which a checkpoint stores parameter `name` of a model of type `model_type`: some leave out what all names begin
/// with (`transformer.` in GPT-2's files on the Hub). `contains` tells whether the checkpoint has a tensor.
///
/// # Errors
///
/// [`Error::Unsupported`] for an unknown family.
pub fn stored_name(model_type: &str, name: &ParamName, contains: &dyn Fn(&str) -> bool) -> Result<String> {
    let base = match text_encoder::base(model_type) {
        Some(base) => base,
        None => family(model_type)?.base,
    };
    Ok(stored_under(base, name.as_str(), contains).to_owned())
}

/// Checks that every id of the tokenizer is a row of the embedding.
pub(crate) fn check_tokenizer(config: &ModelConfig, tokenizer: &Tokenizer, vocab_size: usize) -> Result<()> {
    let bound = tokenizer.id_bound();
    if bound <= vocab_size {
        return Ok(());
    }
    Err(Error::format(
        config.origin(),
        format!(
            "the tokenizer does not fit the vocabulary: it has ids up to {}, the model {vocab_size} rows (vocab_size); \
             use the tokenizer the model was trained with",
            bound - 1
        ),
    ))
}
