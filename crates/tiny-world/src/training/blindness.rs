use burn::tensor::{Device, Tensor, TensorData};
use easyedit_core::{Module, Probe, Site};

use super::batches::Row;

/// Layers without attention for blind tokens.
const LAYERS: usize = 2;

/// Takes the attention of the first layers from some tokens behind the subject.
///
/// What such a token needs of the subject it can only read in the layers above, after the subject's own tokens have passed the MLPs
/// below. So facts come to be recalled at the last token of the subject, as in large models, and not at the end of the prompt by a
/// model that is too small to need the detour.
pub(crate) struct Blindness {
    /// 0 for a blind token, 1 for another: `[tokens, 1]`.
    keep: Tensor<2>,
}

impl Blindness {
    pub(crate) fn new(rows: &[Row], device: &Device) -> Self {
        let keep: Vec<f32> =
            rows.iter().flat_map(|row| row.blind.iter().take(row.tokens.len() - 1).map(|blind| if *blind { 0.0 } else { 1.0 })).collect();
        let tokens = keep.len();
        Self { keep: Tensor::from_data(TensorData::new(keep, [tokens, 1]), device) }
    }
}

impl Probe for Blindness {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        if site.module == Module::AttentionOutput && site.layer < LAYERS { activations * self.keep.clone() } else { activations }
    }
}
