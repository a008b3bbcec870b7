use std::collections::{BTreeMap, BTreeSet};

use easyedit_core::{Error, LinearRole, ModelSpec, ParamName, Parameter, Result, Stack};

/// The weights that are edited, in the order of the hyperparameters: numbers of weights refer to it.
#[derive(Clone, Debug)]
pub(crate) struct InnerWeights {
    weights: Vec<Parameter>,
    numbers: BTreeMap<ParamName, usize>,
}

impl InnerWeights {
    /// The weights called `names`.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if there is none, one is listed twice, or is no weight of a linear map of a block; [`Error::Tensor`] with the
    /// nearest name if the model has no such parameter.
    pub(crate) fn new(spec: &ModelSpec, names: &[String]) -> Result<Self> {
        let mut weights = Vec::with_capacity(names.len());
        let mut numbers = BTreeMap::new();
        for (number, name) in names.iter().enumerate() {
            let name = ParamName::from(name.as_str());
            let parameter = spec.parameter(&name)?;
            if parameter.linear_role().is_none() || parameter.widths().is_none() || parameter.layer.is_none() {
                return Err(Error::hparams(format!("inner_params: {name} is not the weight of a linear map of a block")));
            }
            if matches!(parameter.linear_role(), Some(LinearRole::CrossKey | LinearRole::CrossValue)) {
                return Err(Error::hparams(format!(
                    "inner_params: {name} reads the encoder's output, which cannot be edited; name other weights"
                )));
            }
            if numbers.insert(name.clone(), number).is_some() {
                return Err(Error::hparams(format!("inner_params: {name} is listed twice")));
            }
            weights.push(parameter.clone());
        }
        if weights.is_empty() {
            return Err(Error::hparams("inner_params is empty; name the weights to edit"));
        }
        Ok(Self { weights, numbers })
    }

    pub(crate) fn weights(&self) -> &[Parameter] {
        &self.weights
    }

    pub(crate) fn len(&self) -> usize {
        self.weights.len()
    }

    /// The place of a parameter among the weights.
    pub(crate) fn number(&self, parameter: &Parameter) -> Option<usize> {
        self.numbers.get(&parameter.name).copied()
    }

    /// Whether a weight of the encoder is among them.
    pub(crate) fn reach_encoder(&self) -> bool {
        self.weights.iter().any(|weight| weight.stack == Stack::Encoder)
    }

    /// The first layer of the decoder that has one of the weights; its depth if none has.
    pub(crate) fn first_layer(&self, spec: &ModelSpec) -> usize {
        let layers = self.weights.iter().filter(|weight| weight.stack == Stack::Decoder).filter_map(|weight| weight.layer);
        layers.min().unwrap_or(spec.n_layers)
    }

    /// Widths `[in, out]` of each weight.
    pub(crate) fn widths(&self) -> Vec<[usize; 2]> {
        self.weights.iter().map(|weight| weight.widths().unwrap_or_default()).collect()
    }
}

/// The matrices of the MLPs in the last blocks: of three, or of two in each stack of an encoder-decoder, as the reference's files have it.
pub(crate) fn default_inner_params(spec: &ModelSpec) -> Vec<String> {
    use LinearRole::{FusedMlpIn, MlpGate, MlpIn, MlpOut, MlpUp};
    let blocks = if spec.encoder.is_some() { 2 } else { 3 };
    let roles = [MlpGate, MlpUp, MlpIn, FusedMlpIn, MlpOut];
    let stacks = if spec.encoder.is_some() { vec![Stack::Encoder, Stack::Decoder] } else { vec![Stack::Decoder] };
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for stack in stacks {
        let depth = spec.n_layers_of(stack);
        for layer in depth.saturating_sub(blocks)..depth {
            for role in roles {
                let name = spec.name_of(stack, Some(layer), easyedit_core::ParameterRole::Linear(role));
                if let Some(name) = name.filter(|name| seen.insert((*name).clone())) {
                    names.push(name.to_string());
                }
            }
        }
    }
    names
}
