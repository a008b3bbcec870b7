use burn::tensor::Tensor;
use easyedit_core::{WeightLayout, weight_product};

use crate::parameters::parameters;

/// An affine map whose weight stays as the checkpoint stores it: `y = x W + b` or `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// `[in, out]` or `[out, in]`, as `layout` says.
    pub(crate) weight: Tensor<2>,
    /// `[out]`
    pub(crate) bias: Option<Tensor<1>>,
    /// How the weight is stored.
    pub(crate) layout: WeightLayout,
}

parameters!(Linear { "weight" => weight, "bias" => bias });

impl Linear {
    /// Maps `x`; the weight is read through a view, never copied.
    ///
    /// # Shapes
    ///
    /// `[tokens, in]` -> `[tokens, out]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        biased(weight_product(x, &self.weight, self.layout), self.bias.clone())
    }

    /// The columns `start..start + length` of the output, computed alone: for checkpoints that store several projections as one.
    ///
    /// # Shapes
    ///
    /// `[tokens, in]` -> `[tokens, length]`
    pub(crate) fn forward_part(&self, x: Tensor<2>, start: usize, length: usize) -> Tensor<2> {
        let outputs = match self.layout {
            WeightLayout::OutIn => 0,
            WeightLayout::InOut => 1,
        };
        let weight = self.weight.clone().narrow(outputs, start, length);
        biased(weight_product(x, &weight, self.layout), self.bias.clone().map(|bias| bias.narrow(0, start, length)))
    }
}

fn biased(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_and_parts_give_the_same() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let x = Tensor::<2>::from_floats([[1.0, 2.0], [-1.0, 0.5]], &device);
        let w = Tensor::<2>::from_floats([[1.0, 0.0, 3.0], [2.0, -1.0, 1.0]], &device);
        let bias = Some(Tensor::<1>::from_floats([0.5, 0.0, -1.0], &device));
        let in_out = Linear { weight: w.clone(), bias: bias.clone(), layout: WeightLayout::InOut };
        let out_in = Linear { weight: w.transpose(), bias, layout: WeightLayout::OutIn };
        let values = |t: Tensor<2>| t.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values(in_out.forward(x.clone())), [5.5, -2.0, 4.0, 0.5, -0.5, -3.5]);
        assert_eq!(values(out_in.forward(x.clone())), [5.5, -2.0, 4.0, 0.5, -0.5, -3.5]);
        for linear in [in_out, out_in] {
            assert_eq!(values(linear.forward_part(x.clone(), 1, 2)), [-2.0, 4.0, -0.5, -3.5]);
        }
    }
}
