use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::pass::MASKED_SCORE;
use crate::token_batch::{Rectangle, index_tensor};
use crate::{Error, KeyValue, ParamName, Probe, Result, TokenBatch};

/// What the encoder of an encoder-decoder is, without its weights. Its parameters are in the [map](crate::ModelSpec::map).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderSpec {
    /// Number of the encoder's blocks.
    pub n_layers: usize,
    /// Template of the MLP's out-projection, as in [`ModuleNames`](crate::ModuleNames); its input is [`Module::MlpKey`](crate::Module::MlpKey).
    pub mlp_out: String,
    /// The token every row of the decoder begins with.
    pub decoder_start: u32,
}

impl EncoderSpec {
    /// The weight of the MLP's out-projection of encoder block `layer`.
    pub fn mlp_out_weight(&self, layer: usize) -> ParamName {
        ParamName::weight_of(&self.mlp_out, layer)
    }
}

/// The encoder of a [`LanguageModel`](crate::LanguageModel): reads a source whole, for the decoder to attend to.
/// [`ModelSpec::encoder`](crate::ModelSpec::encoder) describes it.
pub trait Encoder {
    /// Reads the rows of `sources`, every token seeing all of its row. `probe` is called at each [`Site`](crate::Site) of
    /// [`Stack::Encoder`](crate::Stack::Encoder) and for the encoder's linear maps; what it returns may carry gradients. The encoder runs to
    /// its end even if [`Probe::is_done`].
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if a token id is beyond the model's tables, or an insert is not of width `d_model`.
    fn encode(&self, sources: &TokenBatch, probe: &mut dyn Probe) -> Result<EncoderOutput>;
}

/// What an encoder made of a batch of sources, for the rows of a decoder to read.
#[derive(Clone, Debug)]
pub struct EncoderOutput {
    hidden: Tensor<2>,
    batch: TokenBatch,
    device: Device,
    rectangle: Rectangle,
}

impl EncoderOutput {
    /// The output `hidden: [tokens, d_model]` for the rows of `batch`; indices and masks are made on `device`.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if the numbers of tokens differ.
    pub fn new(hidden: Tensor<2>, batch: TokenBatch, device: &Device) -> Result<Self> {
        let [tokens, _] = hidden.dims();
        if tokens != batch.tokens() {
            return Err(Error::Batch(format!("{tokens} encoded tokens do not fit a batch of {} tokens", batch.tokens())));
        }
        let rectangle = Rectangle::of(&batch, device);
        Ok(Self { hidden, batch, device: device.clone(), rectangle })
    }

    /// The last hidden state, behind the final norm: `[tokens, d_model]`.
    pub fn hidden(&self) -> Tensor<2> {
        self.hidden.clone()
    }

    /// The sources.
    pub fn batch(&self) -> &TokenBatch {
        &self.batch
    }

    /// `[tokens, d]` -> `[rows, width, d]`, where `width` is the longest source; what stands behind a shorter one is arbitrary, and
    /// masked by [`Pass::source_mask`](crate::Pass::source_mask).
    pub fn spread(&self, x: Tensor<2>) -> Tensor<3> {
        self.rectangle.spread(x)
    }

    /// The rows `rows`, in that order; a row may be left out, or taken several times.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there are no rows, or one is out of range.
    pub fn select_rows(&self, rows: &[usize]) -> Result<Self> {
        let batch = self.batch.select_rows(rows)?;
        let tokens: Vec<usize> = rows.iter().flat_map(|row| self.batch.range(*row)).collect();
        let hidden = self.hidden.clone().select(0, index_tensor(&tokens, &self.device));
        Self::new(hidden, batch, &self.device)
    }
}

/// What the rows of a pass read: an encoder's output, and the keys and values that are known of it by layer.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    output: EncoderOutput,
    known: BTreeMap<usize, KeyValue>,
    mask: Option<Tensor<4>>,
}

impl Source {
    pub(crate) fn new(output: EncoderOutput) -> Self {
        let mask = mask(&output);
        Self { output, known: BTreeMap::new(), mask }
    }

    pub(crate) fn output(&self) -> &EncoderOutput {
        &self.output
    }

    pub(crate) fn known(&self, layer: usize) -> Option<KeyValue> {
        self.known.get(&layer).cloned()
    }

    pub(crate) fn with_known(mut self, more: BTreeMap<usize, KeyValue>) -> Self {
        self.known.extend(more);
        self
    }

    pub(crate) fn mask(&self) -> Option<Tensor<4>> {
        self.mask.clone()
    }

    pub(crate) fn select_rows(&self, rows: &[usize], index: &Tensor<1, Int>) -> Result<Self> {
        let mut selected = Self::new(self.output.select_rows(rows)?);
        let width = selected.output.batch.width();
        let narrow = |x: Tensor<4>| if x.dims()[2] > width { x.narrow(2, 0, width) } else { x };
        for (layer, kv) in &self.known {
            let KeyValue { keys, values } = kv.select_rows(index);
            selected.known.insert(*layer, KeyValue { keys: narrow(keys), values: narrow(values) });
        }
        Ok(selected)
    }
}

/// `[rows, 1, 1, width]`; `None` if all rows are equally long.
fn mask(output: &EncoderOutput) -> Option<Tensor<4>> {
    let batch = &output.batch;
    let (rows, width) = (batch.rows(), batch.width());
    if rows * width == batch.tokens() {
        return None;
    }
    let values: Vec<f32> =
        (0..rows).flat_map(|row| (0..width).map(move |token| if token < batch.len(row) { 0.0 } else { MASKED_SCORE })).collect();
    Some(Tensor::from_data(TensorData::new(values, [rows, 1, 1, width]), &output.device))
}
