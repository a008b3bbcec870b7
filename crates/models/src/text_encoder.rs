use burn::tensor::{Device, Int, Tensor, TensorData};
use easyedit_core::{
    Fingerprint, ParamName, Pass, SequenceHead, TokenBatch, TokenRow, Tokenizer, WeightLayout, nearest_name, weight_product,
};
use sha2::{Digest, Sha256};

use crate::activation::Activation;
use crate::decoder::check_ids;
use crate::families::{check_layers, check_tokenizer};
use crate::loader::Loader;
use crate::post_norm::{Names, PostNormEncoder};
use crate::shape::ShapeKeys;
use crate::{Error, ModelConfig, Result, Shape, TensorSource, bert, distilbert, parameters};

/// Texts that are run at once.
const BATCH_TEXTS: usize = 32;
/// ε of the norms in a configuration that does not say it.
const EPSILON: f64 = 1e-12;
/// Below it, an embedding's length is taken for this much: no division by zero.
const SHORTEST: f64 = 1e-12;

/// A family of text encoders.
#[derive(Debug)]
pub(crate) struct TextFamily {
    pub(crate) model_type: &'static str,
    /// What parameter names begin with; checkpoints of the encoder alone leave it out.
    pub(crate) base: &'static str,
    pub(crate) keys: ShapeKeys,
    /// Key of the activation's name.
    pub(crate) activation: &'static str,
    /// Key of the norms' ε.
    pub(crate) epsilon: &'static str,
    /// Key of the number of segments.
    pub(crate) segments: &'static str,
    pub(crate) names: Names,
    /// The head that classifies texts.
    pub(crate) head: SequenceHead,
}

static FAMILIES: &[&TextFamily] = &[&bert::FAMILY, &distilbert::FAMILY];

/// An encoder of texts: hidden states of tokens that see their whole text, and sentence embeddings made of them.
///
/// It predicts no tokens and so is no [`LanguageModel`](easyedit_core::LanguageModel). Its parameters are named and replaced as theirs;
/// weights that carry gradients may be set. Cloning shares the weights' storage.
#[derive(Clone)]
pub struct TextEncoder {
    name: String,
    shape: Shape,
    tokenizer: Tokenizer,
    device: Device,
    network: PostNormEncoder,
    pub(crate) family: &'static TextFamily,
}

impl std::fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextEncoder").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl TextEncoder {
    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Width of its hidden states and embeddings.
    pub fn d_model(&self) -> usize {
        self.shape.d_model
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The device its weights are on.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// Encodes texts as the rows of a batch, each with the special tokens around it.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] if there are no texts, the tokenizer refuses one, or makes no token of it.
    pub fn encode<T: AsRef<str>>(&self, texts: &[T]) -> Result<TokenBatch> {
        let rows: easyedit_core::Result<Vec<Vec<u32>>> = texts.iter().map(|text| self.tokenizer.encode_whole(text.as_ref())).collect();
        Ok(TokenBatch::new(&rows?)?)
    }

    /// The last hidden state of every token: `[tokens, d_model]`. The first of a row is that of `[CLS]`, which classifiers read.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] if a row is longer than the positions, a token id beyond the vocabulary, or an insert not of width `d_model`.
    pub fn last_hidden_state(&self, batch: &TokenBatch) -> Result<Tensor<2>> {
        check_ids(batch, self.shape.vocab_size, &self.name)?;
        let (longest, limit) = (batch.width(), self.shape.max_positions);
        if longest > limit {
            let message = format!("a text of {longest} tokens is beyond the {limit} positions of {}; use a shorter text", self.name);
            return Err(easyedit_core::Error::Batch(message).into());
        }
        Ok(self.network.run(&mut Pass::new(batch.clone(), &self.device))?)
    }

    /// The mean of each row's last hidden states: `[rows, d_model]`.
    ///
    /// # Errors
    ///
    /// As [`last_hidden_state`](Self::last_hidden_state).
    pub fn mean_pooled(&self, batch: &TokenBatch) -> Result<Tensor<2>> {
        let hidden = self.last_hidden_state(batch)?;
        let (rows, tokens) = (batch.rows(), batch.tokens());
        let mut shares = vec![0f32; rows * tokens];
        for row in 0..rows {
            for token in batch.range(row) {
                shares[row * tokens + token] = 1.0 / batch.len(row) as f32;
            }
        }
        let shares = Tensor::<2>::from_data(TensorData::new(shares, [rows, tokens]), &self.device);
        // A text's sum leaves out the others' tokens, whose shares are 0, exactly: it is the same in any company.
        Ok(weight_product(shares, &hidden, WeightLayout::InOut))
    }

    /// Embeddings of texts: [mean-pooled](Self::mean_pooled) and of length 1, so that their products are cosines: `[texts, d_model]`. A
    /// text longer than the positions is cut; its last token, which closes it, stays.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    ///
    /// # Source
    ///
    /// Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", 2019.
    pub fn sentence_embeddings<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor<2>> {
        let batch = self.cut(self.encode(texts)?)?;
        // Like lengths together; a text does not depend on those it is run with.
        let mut order: Vec<usize> = (0..batch.rows()).collect();
        order.sort_by_key(|row| batch.len(*row));
        let mut parts = Vec::new();
        for rows in order.chunks(BATCH_TEXTS) {
            parts.push(normalised(self.mean_pooled(&batch.select_rows(rows)?)?));
        }
        let mut places = vec![0i64; order.len()];
        order.iter().zip(0..).for_each(|(row, place)| places[*row] = place);
        let count = places.len();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &self.device);
        Ok(Tensor::cat(parts, 0).select(0, places))
    }

    /// The rows, each with as many of its first tokens as leave a position for its last.
    fn cut(&self, batch: TokenBatch) -> Result<TokenBatch> {
        let limit = self.shape.max_positions;
        if batch.width() <= limit {
            return Ok(batch);
        }
        let row = |row: usize| -> TokenRow {
            let tokens = batch.row(row);
            if tokens.len() <= limit {
                return tokens.to_row();
            }
            let mut cut = tokens.prefix(limit.saturating_sub(1)).to_row();
            cut.append(tokens.suffix(tokens.len() - 1));
            cut
        };
        Ok(TokenBatch::new(&(0..batch.rows()).map(row).collect::<Vec<TokenRow>>())?)
    }

    /// SHA-256 over the tokenizer and all weights, in hexadecimal.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] if the device cannot give a weight back.
    pub fn fingerprint(&self) -> Result<String> {
        let tokenizer = self.tokenizer.inner().to_string(false);
        let mut hash = Sha256::new();
        hash.update(tokenizer.map_err(|e| easyedit_core::Error::Tokenizer(e.to_string()))?);
        for name in self.parameter_names() {
            hash.update(name.as_str());
            hash.update(Fingerprint::of(&self.weight(&name)?)?.as_str());
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// Names of all parameters, in the words of a checkpoint that has a head.
    pub fn parameter_names(&self) -> Vec<ParamName> {
        parameters::names(&self.network)
    }

    /// A parameter as the checkpoint stores it; a vector is seen as one row.
    ///
    /// # Errors
    ///
    /// [`easyedit_core::Error::Tensor`] if there is no such parameter.
    pub fn weight(&self, name: &ParamName) -> Result<Tensor<2>> {
        Ok(parameters::weight(&self.network, &self.name, name)?)
    }

    /// The block that a parameter belongs to, from 0.
    pub(crate) fn layer_of(&self, name: &ParamName) -> Option<usize> {
        self.network.layer_of(name.as_str())
    }

    /// Replaces a parameter by one of the same shape.
    ///
    /// # Errors
    ///
    /// [`easyedit_core::Error::Tensor`] if there is no such parameter, or the shape differs.
    pub fn set_weight(&mut self, name: &ParamName, weight: Tensor<2>) -> Result<()> {
        Ok(parameters::set_weight(&mut self.network, &self.name, name, weight)?)
    }
}

/// Each row divided by its length.
pub(crate) fn normalised(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt().clamp_min(SHORTEST);
    x / length
}

/// Loads a text encoder: its weights are read from `tensors` onto `device`, its heads, if any, are left out. `name` is what it is called
/// in messages.
///
/// # Errors
///
/// As [`load_model`](crate::load_model).
pub fn load_text_encoder(
    config: &ModelConfig,
    name: &str,
    tensors: &dyn TensorSource,
    tokenizer: Tokenizer,
    device: &Device,
) -> Result<TextEncoder> {
    let family = family(config.model_type())?;
    check_layers(config, family.keys.n_layers, tensors)?;
    let shape = Shape::read(config, &family.keys)?;
    check_tokenizer(config, &tokenizer, shape.vocab_size)?;
    let positions = config.text_or("position_embedding_type", "absolute")?;
    if positions != "absolute" {
        return Err(Error::Unsupported(format!(
            "{}: text encoders with {positions:?} positions are not supported",
            config.origin().display()
        )));
    }
    let activation = Activation::of(config, family.activation, "gelu")?;
    let epsilon = config.positive_or(family.epsilon, EPSILON)?;
    let segments = config.optional_dimension(family.segments)?.unwrap_or(2);
    let loader = Loader::new(tensors, device, family.base);
    let network = PostNormEncoder::load(&loader, &family.names, &shape, segments, activation, epsilon)?;
    Ok(TextEncoder { name: name.to_owned(), shape, tokenizer, device: device.clone(), network, family })
}

/// Whether models of a `model_type` are text encoders.
pub fn is_text_encoder(model_type: &str) -> bool {
    base(model_type).is_some()
}

/// Values of `model_type` that belong to text encoders.
pub fn text_encoder_types() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.model_type)
}

/// What parameter names of a text encoder begin with, and some checkpoints leave out; `None` if it is none.
pub(crate) fn base(model_type: &str) -> Option<&'static str> {
    FAMILIES.iter().find(|family| family.model_type == model_type).map(|family| family.base)
}

fn family(model_type: &str) -> Result<&'static TextFamily> {
    FAMILIES.iter().copied().find(|family| family.model_type == model_type).ok_or_else(|| {
        let known: Vec<&str> = text_encoder_types().collect();
        let hint = nearest_name(model_type, known.iter().copied()).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
        Error::Unsupported(format!("text encoders of type {model_type:?} are not supported{hint} (supported: {})", known.join(", ")))
    })
}
