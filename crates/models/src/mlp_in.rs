use burn::tensor::Tensor;
use easyedit_core::{LinearRole, Probe};

use crate::Result;
use crate::activation::Activation;
use crate::linear::Linear;
use crate::loader::{Scope, Storage};
use crate::parameters::{ParamMut, ParamRef, Parameters, join};

/// Names of an MLP's in-projections, relative to the block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MlpInNames {
    /// One, without a gate.
    Plain(&'static str),
    /// Gate and up.
    Gated([&'static str; 2]),
    /// Gate and up in one, the gate first.
    FusedGated(&'static str),
}

impl MlpInNames {
    fn all(&self) -> &[&'static str] {
        match self {
            Self::Gated(names) => names,
            Self::Plain(name) | Self::FusedGated(name) => std::slice::from_ref(name),
        }
    }
}

/// The in-projections of an MLP, as the checkpoint stores them.
#[derive(Clone, Debug)]
pub(crate) enum MlpIn {
    Plain(Linear),
    Gated(Box<[Linear; 2]>),
    FusedGated { fused: Linear, d_mlp: usize },
}

impl MlpIn {
    pub(crate) fn load(scope: &Scope<'_>, names: &MlpInNames, [d_model, d_mlp]: [usize; 2], storage: Storage) -> Result<Self> {
        let linear = |name: &str, width: usize, role: LinearRole| scope.linear(name, [d_model, width], storage, role);
        Ok(match names {
            MlpInNames::Plain(name) => Self::Plain(linear(name, d_mlp, LinearRole::MlpIn)?),
            MlpInNames::Gated([gate, up]) => {
                Self::Gated(Box::new([linear(gate, d_mlp, LinearRole::MlpGate)?, linear(up, d_mlp, LinearRole::MlpUp)?]))
            }
            MlpInNames::FusedGated(name) => Self::FusedGated { fused: linear(name, 2 * d_mlp, LinearRole::FusedMlpIn)?, d_mlp },
        })
    }

    /// The input of the out-projection.
    ///
    /// # Shapes
    ///
    /// `[tokens, d_model]` -> `[tokens, d_mlp]`
    pub(crate) fn key(&self, x: Tensor<2>, activation: Activation, probe: &mut dyn Probe) -> Tensor<2> {
        match self {
            Self::Plain(plain) => activation.forward(plain.forward(x, probe)),
            Self::Gated(linears) => {
                let [gate, up] = &**linears;
                let gate = gate.forward(x.clone(), probe);
                activation.gated(gate, up.forward(x, probe))
            }
            Self::FusedGated { fused, d_mlp } => {
                let [gate, up] = fused.forward_parts(&x, [*d_mlp; 2], probe);
                activation.gated(gate, up)
            }
        }
    }

    fn all(&self) -> &[Linear] {
        match self {
            Self::Gated(linears) => &**linears,
            Self::Plain(linear) | Self::FusedGated { fused: linear, .. } => std::slice::from_ref(linear),
        }
    }

    fn all_mut(&mut self) -> &mut [Linear] {
        match self {
            Self::Gated(linears) => &mut **linears,
            Self::Plain(linear) | Self::FusedGated { fused: linear, .. } => std::slice::from_mut(linear),
        }
    }

    pub(crate) fn visit<'a>(&'a self, names: &MlpInNames, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        for (name, linear) in names.all().iter().zip(self.all()) {
            linear.visit(&join(path, name), see);
        }
    }

    pub(crate) fn visit_mut(&mut self, names: &MlpInNames, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        for (name, linear) in names.all().iter().zip(self.all_mut()) {
            linear.visit_mut(&join(path, name), see);
        }
    }
}
