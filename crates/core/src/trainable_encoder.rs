use burn::tensor::{Device, Tensor};

use crate::{ParamName, Result, TokenBatch, Tokenizer};

/// An encoder of texts whose weights can be trained: hidden states with gradients, and every parameter by name.
///
/// Where a [`SentenceEncoder`](crate::SentenceEncoder) only gives vectors, a method that trains an encoder puts tracked weights into a
/// clone of this one, and asks the clone for hidden states.
pub trait TrainableEncoder: Send + Sync {
    /// What it is called in messages and files.
    fn name(&self) -> &str;

    /// Its tokenizer.
    fn tokenizer(&self) -> &Tokenizer;

    /// The device its weights are on.
    fn device(&self) -> Device;

    /// Width of its hidden states.
    fn d_model(&self) -> usize;

    /// Number of its blocks.
    fn n_layers(&self) -> usize;

    /// Longest text, in tokens.
    fn max_positions(&self) -> usize;

    /// Names of all parameters.
    fn parameter_names(&self) -> Vec<ParamName>;

    /// A name without the prefix that checkpoints of the encoder alone leave out.
    fn bare_name<'a>(&self, name: &'a ParamName) -> &'a str;

    /// The block a parameter belongs to, from 0; `None` for embeddings and unknown names.
    fn layer_of(&self, name: &ParamName) -> Option<usize>;

    /// A parameter as the checkpoint stores it; a vector is one row.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) if there is no such parameter.
    fn weight(&self, name: &ParamName) -> Result<Tensor<2>>;

    /// Replaces a parameter by one of the same shape, which may be tracked.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) if there is no such parameter, or the shape differs.
    fn set_weight(&mut self, name: &ParamName, weight: Tensor<2>) -> Result<()>;

    /// The last hidden state of every token: `[tokens, d_model]`. A row's states do not depend on the other rows.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`](crate::Error::Batch) if a row is longer than [`max_positions`](Self::max_positions) or holds an unknown id.
    fn last_hidden_state(&self, batch: &TokenBatch) -> Result<Tensor<2>>;

    /// The head that the family puts on its first token to classify texts.
    fn sequence_head(&self) -> SequenceHead;

    /// A clone that shares the weights' storage.
    fn boxed_clone(&self) -> Box<dyn TrainableEncoder>;
}

/// A classification head on the first token: a dense layer of width `d_model`, an activation, a linear map to the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceHead {
    /// Name of the dense layer in a checkpoint of encoder and head.
    pub dense: &'static str,
    /// Name of the linear map to the classes.
    pub out: &'static str,
    /// What lies between.
    pub activation: HeadActivation,
}

/// The activation of a [`SequenceHead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadActivation {
    /// max(x, 0)
    Relu,
    /// tanh(x)
    Tanh,
}
