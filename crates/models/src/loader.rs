use burn::tensor::{Device, Tensor, TensorData};
use easyedit_core::WeightLayout;

use crate::linear::Linear;
use crate::{Result, TensorSource};

/// Reads a network's tensors one at a time onto a device.
pub(crate) struct Loader<'a> {
    tensors: &'a dyn TensorSource,
    device: &'a Device,
    base: &'static str,
}

impl<'a> Loader<'a> {
    /// A loader of parameters named as with the prefix `base`, which a checkpoint of the headless model leaves out.
    pub(crate) fn new(tensors: &'a dyn TensorSource, device: &'a Device, base: &'static str) -> Self {
        Self { tensors, device, base }
    }

    pub(crate) fn device(&self) -> &Device {
        self.device
    }

    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>> {
        let values = self.read(name, &shape)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<Tensor<1>> {
        let values = self.read(name, &[length])?;
        Ok(Tensor::from_data(TensorData::new(values, [length]), self.device))
    }

    pub(crate) fn linear(&self, name: &str, [d_in, d_out]: [usize; 2], bias: bool, layout: WeightLayout) -> Result<Linear> {
        let shape = match layout {
            WeightLayout::OutIn => [d_out, d_in],
            WeightLayout::InOut => [d_in, d_out],
        };
        let weight = self.matrix(&format!("{name}.weight"), shape)?;
        let bias = if bias { Some(self.vector(&format!("{name}.bias"), d_out)?) } else { None };
        Ok(Linear { weight, bias, layout })
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let stored = stored_under(self.base, name, &|candidate| self.tensors.contains(candidate));
        self.tensors.read(stored, shape)
    }
}

/// The name under which `name` is stored: itself, or without the prefix `base` where the checkpoint leaves it out.
pub(crate) fn stored_under<'n>(base: &str, name: &'n str, contains: &dyn Fn(&str) -> bool) -> &'n str {
    match name.strip_prefix(base) {
        Some(bare) if !contains(name) && contains(bare) => bare,
        _ => name,
    }
}
