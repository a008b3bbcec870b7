use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use easyedit_core::{LinearRole, ModelMap, ParamName, Parameter, ParameterRole, Stack, WeightLayout, WeightType};

use crate::linear::Linear;
use crate::parameters::{self, Parameters, join};
use crate::weight::Weight;
use crate::{Result, StoredValues, TensorSource};

/// Reads a network's tensors one at a time onto a device, and records what each of them is for.
pub(crate) struct Loader<'a> {
    tensors: &'a dyn TensorSource,
    device: &'a Device,
    base: &'static str,
    parameters: RefCell<BTreeMap<ParamName, Arc<Parameter>>>,
}

/// How a linear map is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    pub(crate) layout: WeightLayout,
    /// Whether it has a bias.
    pub(crate) bias: bool,
}

/// A place in a network whose parameters are read: names are relative to its path.
pub(crate) struct Scope<'a> {
    loader: &'a Loader<'a>,
    path: String,
    pub(crate) stack: Stack,
    layer: Option<usize>,
}

impl<'a> Loader<'a> {
    /// A loader of parameters named as with the prefix `base`, which a checkpoint of the headless model leaves out.
    pub(crate) fn new(tensors: &'a dyn TensorSource, device: &'a Device, base: &'static str) -> Self {
        Self { tensors, device, base, parameters: RefCell::default() }
    }

    /// The parameters of `stack`, by their full names.
    pub(crate) fn stack(&'a self, stack: Stack) -> Scope<'a> {
        Scope { loader: self, path: String::new(), stack, layer: None }
    }

    /// The map of the parameters of `network`, all of which were read by this loader.
    ///
    /// # Errors
    ///
    /// [`Error::Core`](crate::Error::Core) if one was not, or two have the same role in one place.
    pub(crate) fn map(&self, network: &impl Parameters) -> Result<ModelMap> {
        let known = self.parameters.borrow();
        let parameter = |name: ParamName| {
            known.get(&name).cloned().ok_or_else(|| easyedit_core::Error::tensor(name.as_str(), "was not read by the model's loader"))
        };
        let parameters = parameters::names(network).into_iter().map(parameter).collect::<easyedit_core::Result<Vec<_>>>()?;
        Ok(ModelMap::new(parameters)?)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<StoredValues> {
        let stored = stored_under(self.base, name, &|candidate| self.tensors.contains(candidate));
        self.tensors.read_stored(stored, shape)
    }
}

impl<'a> Scope<'a> {
    /// The module called `name`.
    pub(crate) fn inside(&self, name: &str) -> Scope<'a> {
        Scope { loader: self.loader, path: join(&self.path, name), stack: self.stack, layer: self.layer }
    }

    /// Block `layer` of the list of blocks called `blocks`.
    pub(crate) fn block(&self, blocks: &str, layer: usize) -> Scope<'a> {
        Scope { loader: self.loader, path: join(&join(&self.path, blocks), &layer.to_string()), stack: self.stack, layer: Some(layer) }
    }

    /// The number of the block; 0 outside of blocks.
    pub(crate) fn layer(&self) -> usize {
        self.layer.unwrap_or(0)
    }

    pub(crate) fn device(&self) -> &'a Device {
        self.loader.device
    }

    /// A small table of rows that are looked up.
    pub(crate) fn table(&self, name: &str, shape: [usize; 2], role: ParameterRole) -> Result<Tensor<2>> {
        let (weight, _) = self.weight_and_parameter(name, shape, role, None)?;
        Ok(weight.to_f32())
    }

    /// A matrix; `layout` if activations are multiplied with it.
    pub(crate) fn weight(&self, name: &str, shape: [usize; 2], role: ParameterRole, layout: Option<WeightLayout>) -> Result<Weight> {
        self.weight_and_parameter(name, shape, role, layout).map(|(weight, _)| weight)
    }

    pub(crate) fn vector(&self, name: &str, length: usize, role: ParameterRole) -> Result<Tensor<1>> {
        let name = join(&self.path, name);
        let values = self.loader.read(&name, &[length])?;
        self.record(&name, role, None, [1, length], values.kind());
        Ok(Tensor::from_data(TensorData::new(values.into_f32(), [length]), self.device()))
    }

    /// The linear map called `module`.
    pub(crate) fn linear(&self, module: &str, [d_in, d_out]: [usize; 2], storage: Storage, role: LinearRole) -> Result<Linear> {
        let Storage { layout, bias } = storage;
        let shape = match layout {
            WeightLayout::OutIn => [d_out, d_in],
            WeightLayout::InOut => [d_in, d_out],
        };
        let (weight, parameter) = self.weight_and_parameter(&join(module, "weight"), shape, ParameterRole::Linear(role), Some(layout))?;
        let bias = if bias { Some(self.vector(&join(module, "bias"), d_out, ParameterRole::LinearBias(role))?) } else { None };
        Ok(Linear { parameter, weight, bias, layout })
    }

    fn weight_and_parameter(
        &self,
        name: &str,
        shape: [usize; 2],
        role: ParameterRole,
        layout: Option<WeightLayout>,
    ) -> Result<(Weight, Arc<Parameter>)> {
        let name = join(&self.path, name);
        let values = self.loader.read(&name, &shape)?;
        let parameter = self.record(&name, role, layout, shape, values.kind());
        Ok((Weight::new(values, shape, self.device()), parameter))
    }

    fn record(
        &self,
        name: &str,
        role: ParameterRole,
        layout: Option<WeightLayout>,
        shape: [usize; 2],
        dtype: WeightType,
    ) -> Arc<Parameter> {
        let Self { stack, layer, .. } = *self;
        let parameter = Arc::new(Parameter { name: name.into(), stack, layer, role, layout, shape, dtype });
        self.loader.parameters.borrow_mut().insert(parameter.name.clone(), parameter.clone());
        parameter
    }
}

/// The name under which `name` is stored: itself, or without the prefix `base` where the checkpoint leaves it out.
pub(crate) fn stored_under<'n>(base: &str, name: &'n str, contains: &dyn Fn(&str) -> bool) -> &'n str {
    match name.strip_prefix(base) {
        Some(bare) if !contains(name) && contains(bare) => bare,
        _ => name,
    }
}
