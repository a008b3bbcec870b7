//! Text encoders as methods train them.

use burn::tensor::{Device, Tensor};
use easyedit_core::{Error, ParamName, Result, SequenceHead, TokenBatch, Tokenizer, TrainableEncoder};

use crate::TextEncoder;

impl TrainableEncoder for TextEncoder {
    fn name(&self) -> &str {
        self.name()
    }

    fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer()
    }

    fn device(&self) -> Device {
        self.device()
    }

    fn d_model(&self) -> usize {
        self.d_model()
    }

    fn n_layers(&self) -> usize {
        self.shape().n_layers
    }

    fn max_positions(&self) -> usize {
        self.shape().max_positions
    }

    fn parameter_names(&self) -> Vec<ParamName> {
        self.parameter_names()
    }

    fn bare_name<'a>(&self, name: &'a ParamName) -> &'a str {
        name.as_str().strip_prefix(self.family.base).unwrap_or(name.as_str())
    }

    fn layer_of(&self, name: &ParamName) -> Option<usize> {
        self.layer_of(name)
    }

    fn weight(&self, name: &ParamName) -> Result<Tensor<2>> {
        self.weight(name).map_err(core_error)
    }

    fn set_weight(&mut self, name: &ParamName, weight: Tensor<2>) -> Result<()> {
        self.set_weight(name, weight).map_err(core_error)
    }

    fn last_hidden_state(&self, batch: &TokenBatch) -> Result<Tensor<2>> {
        self.last_hidden_state(batch).map_err(core_error)
    }

    fn sequence_head(&self) -> SequenceHead {
        self.family.head
    }

    fn boxed_clone(&self) -> Box<dyn TrainableEncoder> {
        Box::new(self.clone())
    }
}

/// The contract's error as it is, another one wrapped.
fn core_error(error: crate::Error) -> Error {
    match error {
        crate::Error::Core(error) => error,
        other => Error::other(other),
    }
}
