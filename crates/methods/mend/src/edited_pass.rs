use burn::tensor::Tensor;
use easyedit_core::{Parameter, Probe, Site, Stack};

use crate::inner::InnerWeights;
use crate::network::Transformed;
use crate::rows::Rows;

/// The pass of a model whose inner weights carry edits, each row that of its edit: `y + (h X̃ᵀ) Δ̃`. The sum `Δ̃ᵀ X̃`, which is as large as the
/// weight, is never formed.
///
/// # Source
///
/// Mitchell et al. 2022, section 3.1: the rank of an update is the number of tokens.
pub(crate) struct EditedPass<'a> {
    pub(crate) inner: &'a InnerWeights,
    /// Of each weight; `None` leaves it as it is.
    pub(crate) changes: &'a [Option<Transformed>],
    pub(crate) rows: &'a Rows,
}

impl Probe for EditedPass<'_> {
    fn at(&mut self, _: Site, activations: Tensor<2>) -> Tensor<2> {
        activations
    }

    fn wants_linear(&self, parameter: &Parameter) -> bool {
        self.inner.number(parameter).is_some_and(|number| self.changes.get(number).is_some_and(Option::is_some))
    }

    fn linear(&mut self, parameter: &Parameter, input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
        let change = self.inner.number(parameter).and_then(|number| self.changes.get(number)?.as_ref());
        let grouping = if parameter.stack == Stack::Encoder { self.rows.sources() } else { Some(self.rows.tokens()) };
        let (Some(Transformed { x, delta }), Some(grouping)) = (change, grouping) else { return output };
        let lifted = |tensor: Tensor<2>| if x.is_autodiff() && !tensor.is_autodiff() { Tensor::from_inner(tensor) } else { tensor };
        let input = grouping.spread(lifted(input.clone()));
        let change = input.matmul(x.clone().transpose()).matmul(delta.clone());
        lifted(output) + grouping.collect(change)
    }
}
