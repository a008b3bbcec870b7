use std::sync::Arc;

use burn::tensor::Tensor;
use easyedit_core::{Parameter, Probe, WeightLayout};

use crate::parameters::parameters;
use crate::weight::Weight;

/// An affine map of a block whose weight stays as the checkpoint stores it: `y = x W + b` or `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// The weight's entry of the model map.
    pub(crate) parameter: Arc<Parameter>,
    /// `[in, out]` or `[out, in]`, as `layout` says.
    pub(crate) weight: Weight,
    /// `[out]`
    pub(crate) bias: Option<Tensor<1>>,
    /// How the weight is stored.
    pub(crate) layout: WeightLayout,
}

parameters!(Linear { "weight" => weight, "bias" => bias });

impl Linear {
    /// Maps `x`; the weight is read through a view, never copied. The probe sees the product before the bias is added.
    ///
    /// # Shapes
    ///
    /// `[tokens, in]` -> `[tokens, out]`
    pub(crate) fn forward(&self, x: Tensor<2>, probe: &mut dyn Probe) -> Tensor<2> {
        biased(self.product(x, probe), self.bias.clone())
    }

    /// The output in parts of the widths `lengths`, for checkpoints that store several maps as one. One product a part, because slicing
    /// their joint result would cost copies here and in the gradient; a probe that wants the map is shown the joint result.
    ///
    /// # Shapes
    ///
    /// `[tokens, in]` -> `[tokens, length]` each
    pub(crate) fn forward_parts<const N: usize>(&self, x: &Tensor<2>, lengths: [usize; N], probe: &mut dyn Probe) -> [Tensor<2>; N] {
        let whole = probe.wants_linear(&self.parameter).then(|| self.forward(x.clone(), probe));
        let mut end = 0;
        lengths.map(|length| {
            let start = end;
            end += length;
            match &whole {
                Some(whole) => whole.clone().narrow(1, start, length),
                None => self.forward_part(x.clone(), start, length),
            }
        })
    }

    fn product(&self, x: Tensor<2>, probe: &mut dyn Probe) -> Tensor<2> {
        if !probe.wants_linear(&self.parameter) {
            return self.weight.product(x, self.layout);
        }
        let output = self.weight.product(x.clone(), self.layout);
        probe.linear(&self.parameter, &x, output)
    }

    /// The columns `start..start + length` of the output, computed alone.
    fn forward_part(&self, x: Tensor<2>, start: usize, length: usize) -> Tensor<2> {
        let outputs = match self.layout {
            WeightLayout::OutIn => 0,
            WeightLayout::InOut => 1,
        };
        let weight = self.weight.narrow(outputs, start, length);
        biased(weight.product(x, self.layout), self.bias.clone().map(|bias| bias.narrow(0, start, length)))
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
    use easyedit_core::{LinearRole, ParameterRole, Site, Stack, WeightType};

    use super::*;

    /// Doubles the product of every map.
    struct Double;

    impl Probe for Double {
        fn at(&mut self, _: Site, activations: Tensor<2>) -> Tensor<2> {
            activations
        }

        fn wants_linear(&self, _: &Parameter) -> bool {
            true
        }

        fn linear(&mut self, _: &Parameter, _: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
            output * 2.0
        }
    }

    #[test]
    fn both_layouts_and_parts_give_the_same() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let x = Tensor::<2>::from_floats([[1.0, 2.0], [-1.0, 0.5]], &device);
        let w = Tensor::<2>::from_floats([[1.0, 0.0, 3.0], [2.0, -1.0, 1.0]], &device);
        let bias = Some(Tensor::<1>::from_floats([0.5, 0.0, -1.0], &device));
        let parameter = |layout| Parameter {
            name: "w".into(),
            stack: Stack::Decoder,
            layer: Some(0),
            role: ParameterRole::Linear(LinearRole::FusedQkv),
            layout: Some(layout),
            shape: [0, 0],
            dtype: WeightType::F32,
        };
        let linear =
            |weight: Tensor<2>, layout| Linear { parameter: parameter(layout).into(), weight: weight.into(), bias: bias.clone(), layout };
        let values = |t: Tensor<2>| t.into_data().try_to_vec::<f32>().unwrap();
        for linear in [linear(w.clone(), WeightLayout::InOut), linear(w.transpose(), WeightLayout::OutIn)] {
            assert_eq!(values(linear.forward(x.clone(), &mut ())), [5.5, -2.0, 4.0, 0.5, -0.5, -3.5]);
            assert_eq!(linear.forward_parts(&x, [1, 2], &mut ()).map(values), [vec![5.5, 0.5], vec![-2.0, 4.0, -0.5, -3.5]]);
            assert_eq!(values(linear.forward(x.clone(), &mut Double)), [10.5, -4.0, 9.0, 0.5, -1.0, -6.0]);
            assert_eq!(linear.forward_parts(&x, [1, 2], &mut Double).map(values), [vec![10.5, 0.5], vec![-4.0, 9.0, -1.0, -6.0]]);
        }
    }
}
