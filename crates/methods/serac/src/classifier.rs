//! The scope classifier: an encoder, and how its states become scores.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData, activation};
use easyedit_core::{
    Error, HeadActivation, HostTensor, Matrix, ParamName, Result, TokenBatch, TokenRow, TrainableEncoder, WeightLayout, tensor_values,
    weight_product,
};

use crate::head::Head;
use crate::{Pooling, ScopeRules};

/// Texts that are run at once.
const BATCH: usize = 64;
/// Prefix of the classifier's tensors in files.
pub(crate) const PREFIX: &str = "classifier.";
/// Name of the factor of distances in files.
pub(crate) const SCALE: &str = "scale";

/// The scope classifier g(memory, query) of SERAC.
pub struct ScopeClassifier {
    encoder: Box<dyn TrainableEncoder>,
    head: Option<Head>,
    rules: ScopeRules,
    scale: f64,
}

impl Clone for ScopeClassifier {
    fn clone(&self) -> Self {
        Self { encoder: self.encoder.boxed_clone(), head: self.head.clone(), rules: self.rules, scale: self.scale }
    }
}

impl std::fmt::Debug for ScopeClassifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScopeClassifier").field("encoder", &self.encoder.name()).field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl ScopeClassifier {
    /// A classifier of an encoder; its head, if the rules ask for one, is drawn from `seed`.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if the parts of an embedding are not a divisor of the encoder's width.
    pub fn new(encoder: Box<dyn TrainableEncoder>, rules: ScopeRules, seed: u64) -> Result<Self> {
        let width = encoder.d_model();
        if rules.dist_heads == 0 || !width.is_multiple_of(rules.dist_heads) {
            return Err(Error::hparams(format!(
                "dist_heads is {}, which does not divide the width {width} of {}",
                rules.dist_heads,
                encoder.name()
            )));
        }
        let head = rules.cross_attend.then(|| Head::new(encoder.sequence_head(), width, seed, &encoder.device()));
        Ok(Self { encoder, head, rules, scale: 1.0 })
    }

    /// How scores are made.
    pub fn rules(&self) -> ScopeRules {
        self.rules
    }

    /// The encoder.
    pub fn encoder(&self) -> &dyn TrainableEncoder {
        &*self.encoder
    }

    /// Width of embeddings.
    pub fn width(&self) -> usize {
        self.encoder.d_model()
    }

    pub(crate) fn device(&self) -> Device {
        self.encoder.device()
    }

    /// Rows of texts, each with the special tokens around it. A longer text than the encoder reads is cut; its last token stays.
    fn rows(&self, texts: &[&str]) -> Result<Vec<TokenRow>> {
        texts.iter().map(|text| Ok(self.cut(self.encoder.tokenizer().encode_whole(text)?).into())).collect()
    }

    fn cut(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let limit = self.encoder.max_positions().max(1);
        if let Some(last) = ids.last().copied().filter(|_| ids.len() > limit) {
            ids.truncate(limit - 1);
            ids.push(last);
        }
        ids
    }

    /// Embeddings of texts, in the graph of the encoder's weights if they are tracked: `[texts, width]`.
    ///
    /// # Errors
    ///
    /// If there are no texts, or the encoder's tokenizer refuses one.
    pub fn embeddings(&self, texts: &[&str]) -> Result<Tensor<2>> {
        let batch = TokenBatch::new(&self.rows(texts)?)?;
        let hidden = self.encoder.last_hidden_state(&batch)?;
        let pooled = match self.rules.pooling {
            Pooling::First => first_states(hidden, &batch, &self.device()),
            Pooling::Mean => mean_states(hidden, &batch, &self.device()),
        };
        Ok(if self.rules.bound_embeds { pooled.tanh() } else { pooled })
    }

    /// Embeddings of texts in host memory: `[texts, width]`. A text's embedding does not depend on the others.
    ///
    /// # Errors
    ///
    /// As [`embeddings`](Self::embeddings); [`Error::NotFinite`] if a number is not.
    pub fn embed(&self, texts: &[&str]) -> Result<Matrix> {
        let mut values = Vec::with_capacity(texts.len() * self.width());
        for part in texts.chunks(BATCH) {
            values.extend(tensor_values(&self.embeddings(part)?)?);
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::NotFinite(format!("an embedding of {} holds NaN or infinity", self.encoder.name())));
        }
        Matrix::new(texts.len(), self.width(), values).ok_or_else(|| Error::Batch("embeddings are missing".into()))
    }

    /// ln s of pairs of texts (query, memory), with gradients: `[pairs, 1]`.
    ///
    /// # Errors
    ///
    /// As [`embeddings`](Self::embeddings).
    pub fn log_scores(&self, pairs: &[(&str, &str)]) -> Result<Tensor<2>> {
        if let Some(head) = &self.head {
            let rows = pairs.iter().map(|(query, memory)| self.joint(memory, query)).collect::<Result<Vec<TokenRow>>>()?;
            let batch = TokenBatch::new(&rows)?;
            let logits = head.forward(first_states(self.encoder.last_hidden_state(&batch)?, &batch, &self.device()));
            return Ok(activation::log_softmax(logits, 1).narrow(1, 0, 1));
        }
        // Each text is run once, however many pairs it is in.
        let mut places: BTreeMap<&str, i64> = BTreeMap::new();
        let mut texts: Vec<&str> = Vec::new();
        let mut place = |text| {
            *places.entry(text).or_insert_with(|| {
                texts.push(text);
                texts.len() as i64 - 1
            })
        };
        let (queries, memories): (Vec<i64>, Vec<i64>) = pairs.iter().map(|(query, memory)| (place(query), place(memory))).unzip();
        let embeddings = self.embeddings(&texts)?;
        let select = |rows: Vec<i64>| {
            let count = rows.len();
            embeddings.clone().select(0, Tensor::from_data(TensorData::new(rows, [count]), &self.device()))
        };
        Ok(self.rules.log_scores(select(queries), select(memories), self.scale))
    }

    /// Scores of embedded queries and memories, s in [0, 1].
    pub(crate) fn score(&self, query: &[f32], memory: &[f32]) -> f64 {
        (-self.scale * self.rules.distance(query, memory)).exp().clamp(0.0, 1.0)
    }

    /// Scores of a query against all memories, where they are read together.
    pub(crate) fn joint_scores(&self, query: &str, memories: &[&str]) -> Result<Vec<f64>> {
        let mut scores = Vec::with_capacity(memories.len());
        for part in memories.chunks(BATCH) {
            let pairs: Vec<(&str, &str)> = part.iter().map(|memory| (query, *memory)).collect();
            scores.extend(tensor_values(&self.log_scores(&pairs)?)?.into_iter().map(|log| f64::from(log).exp()));
        }
        Ok(scores)
    }

    /// `[start] memory [sep] query [sep]`: what lies around a text is that of the encoder's own tokenizer.
    fn joint(&self, memory: &str, query: &str) -> Result<TokenRow> {
        let tokenizer = self.encoder.tokenizer();
        let (mut row, whole, bare) = (tokenizer.encode_whole(memory)?, tokenizer.encode_whole(query)?, tokenizer.encode_bare(query)?);
        let before = (0..=whole.len().saturating_sub(bare.len())).find(|at| whole.get(*at..).is_some_and(|rest| rest.starts_with(&bare)));
        row.extend(whole.iter().skip(before.unwrap_or(0)));
        Ok(self.cut(row).into())
    }

    /// Names of all parameters, as files have them.
    pub fn parameter_names(&self) -> Vec<String> {
        let encoder = self.encoder.parameter_names();
        let mut names: Vec<String> = encoder.iter().map(|name| format!("{PREFIX}{}", self.stored(name))).collect();
        names.extend(self.head.iter().flat_map(Head::names).map(|name| format!("{PREFIX}{name}")));
        names
    }

    /// A checkpoint of encoder and head keeps the encoder's prefix, one of the encoder alone leaves it out.
    fn stored<'a>(&self, name: &'a ParamName) -> &'a str {
        if self.head.is_some() { name.as_str() } else { self.encoder.bare_name(name) }
    }

    fn encoder_name(&self, name: &str) -> Option<ParamName> {
        let bare = name.strip_prefix(PREFIX)?;
        self.encoder.parameter_names().into_iter().find(|candidate| self.stored(candidate) == bare)
    }

    /// The block of the encoder that a parameter belongs to; `None` for embeddings and the head.
    pub(crate) fn layer_of(&self, name: &str) -> Option<usize> {
        self.encoder.layer_of(&self.encoder_name(name)?)
    }

    pub(crate) fn is_head(&self, name: &str) -> bool {
        name.strip_prefix(PREFIX).is_some_and(|name| self.head.iter().any(|head| head.names().contains(&name.to_owned())))
    }

    /// A parameter by its name in files; a vector is one row.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is no such parameter.
    pub fn weight(&self, name: &str) -> Result<Tensor<2>> {
        if let Some(encoder) = self.encoder_name(name) {
            return self.encoder.weight(&encoder);
        }
        let of_head = name.strip_prefix(PREFIX).and_then(|name| self.head.as_ref()?.weight(name));
        of_head.ok_or_else(|| Error::tensor(name, "the scope classifier has no such parameter"))
    }

    /// Replaces a parameter by one of the same shape.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is no such parameter, or the shape differs.
    pub fn set_weight(&mut self, name: &str, value: Tensor<2>) -> Result<()> {
        if let Some(encoder) = self.encoder_name(name) {
            return self.encoder.set_weight(&encoder, value);
        }
        let want = self.weight(name)?.dims();
        if want != value.dims() {
            return Err(Error::tensor(name, format!("has shape {want:?} and cannot be replaced by one of shape {:?}", value.dims())));
        }
        if let (Some(head), Some(name)) = (&mut self.head, name.strip_prefix(PREFIX)) {
            head.set_weight(name, value);
        }
        Ok(())
    }

    /// The factor of distances, as files have it.
    pub(crate) fn scale(&self) -> HostTensor {
        HostTensor::vector(vec![self.scale as f32])
    }

    /// # Errors
    ///
    /// [`Error::Tensor`] unless it is one number above 0.
    pub(crate) fn set_scale(&mut self, scale: &HostTensor) -> Result<()> {
        match scale.values() {
            [scale] if scale.is_finite() && *scale > 0.0 => {
                self.scale = f64::from(*scale);
                Ok(())
            }
            _ => Err(Error::tensor(SCALE, "must be one number above 0")),
        }
    }
}

/// The state of each row's first token: `[rows, width]`.
fn first_states(hidden: Tensor<2>, batch: &TokenBatch, device: &Device) -> Tensor<2> {
    let rows = batch.rows();
    let first: Vec<i64> = (0..rows).map(|row| batch.index(row, 0) as i64).collect();
    hidden.select(0, Tensor::from_data(TensorData::new(first, [rows]), device))
}

/// The mean of each row's states: `[rows, width]`.
fn mean_states(hidden: Tensor<2>, batch: &TokenBatch, device: &Device) -> Tensor<2> {
    let (rows, tokens) = (batch.rows(), batch.tokens());
    let mut shares = vec![0f32; rows * tokens];
    for row in 0..rows {
        for token in batch.range(row) {
            if let Some(share) = shares.get_mut(row * tokens + token) {
                *share = 1.0 / batch.len(row) as f32;
            }
        }
    }
    let shares = Tensor::<2>::from_data(TensorData::new(shares, [rows, tokens]), device);
    let shares = if hidden.is_autodiff() { Tensor::from_inner(shares) } else { shares };
    weight_product(shares, &hidden, WeightLayout::InOut)
}

/// The activation of a head.
pub(crate) fn activate(x: Tensor<2>, by: HeadActivation) -> Tensor<2> {
    match by {
        HeadActivation::Relu => activation::relu(x),
        HeadActivation::Tanh => x.tanh(),
    }
}
