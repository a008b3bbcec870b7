//! The factors of an adapter, by module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::Matrix;
use easyedit_models::{PytorchSource, SafetensorsSource, TensorSource};

use crate::config::Kind;
use crate::{Error, Result};

/// The weights of an adapter.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The weights of an adapter that PyTorch wrote.
pub const PYTORCH_WEIGHTS_FILE: &str = "adapter_model.bin";
/// What `peft` puts before the names of modules: the adapter's model, and the model inside of it.
pub(crate) const PREFIX: &str = "base_model.model.";
/// What the names of an adapter's tensors have behind the module.
const MARK: &str = ".lora_";

/// The tensors of one module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    a: Option<String>,
    b: Option<String>,
    e: Option<String>,
    ranknum: Option<String>,
}

/// The factors of one module, as they are stored.
#[derive(Clone, Debug)]
pub(crate) struct ModuleFactors {
    /// `[rank, in]`
    pub(crate) a: Matrix,
    /// `[out, rank]`
    pub(crate) b: Matrix,
    /// AdaLoRA's singular values: `rank` numbers.
    pub(crate) e: Option<Vec<f32>>,
    /// AdaLoRA's divisor.
    pub(crate) ranknum: Option<f64>,
}

/// An opened file of weights.
pub(crate) struct AdapterWeights {
    path: PathBuf,
    source: Box<dyn TensorSource>,
    shapes: BTreeMap<String, Vec<usize>>,
    modules: BTreeMap<String, Parts>,
}

impl AdapterWeights {
    /// Opens the weights in `folder`; those of safetensors win over PyTorch's.
    pub(crate) fn open(folder: &Path, kind: Kind) -> Result<Self> {
        let (safetensors, pytorch) = (folder.join(WEIGHTS_FILE), folder.join(PYTORCH_WEIGHTS_FILE));
        let (path, source, shapes): (_, Box<dyn TensorSource>, BTreeMap<_, _>) = if safetensors.exists() {
            let source = SafetensorsSource::open_file(&safetensors)?;
            let shapes = source.tensors().map(|(name, tensor)| (name.to_owned(), tensor.shape.clone())).collect();
            (safetensors, Box::new(source), shapes)
        } else if pytorch.exists() {
            let source = PytorchSource::open_file(&pytorch)?;
            let names = source.names();
            let shapes = names.into_iter().filter_map(|name| source.shape(&name).map(<[usize]>::to_vec).map(|shape| (name, shape)));
            let shapes = shapes.collect();
            (pytorch, Box::new(source), shapes)
        } else {
            return Err(Error::format(folder, format!("has neither {WEIGHTS_FILE} nor {PYTORCH_WEIGHTS_FILE}; the adapter is incomplete")));
        };
        let mut weights = Self { path, source, shapes, modules: BTreeMap::new() };
        for name in weights.shapes.keys().cloned().collect::<Vec<_>>() {
            weights.sort_in(&name, kind)?;
        }
        if weights.modules.is_empty() {
            return Err(Error::format(weights.path, "holds no tensors, so the adapter changes nothing"));
        }
        Ok(weights)
    }

    /// Notes which part of which module the tensor `name` is.
    fn sort_in(&mut self, name: &str, kind: Kind) -> Result<()> {
        let bare = name.strip_prefix(PREFIX).unwrap_or(name);
        let (module, part) = match (bare.rfind(MARK), bare.strip_suffix(".ranknum")) {
            (Some(at), _) => (&bare[..at], &bare[at + MARK.len()..]),
            (None, Some(module)) if kind == Kind::AdaLora => (module, "ranknum"),
            _ => {
                return Err(Error::format(
                    &self.path,
                    format!("tensor {name} is not a LoRA adapter's; merge the adapter in `peft` instead"),
                ));
            }
        };
        let parts = self.modules.entry(module.to_owned()).or_default();
        let place = match (kind, part) {
            (Kind::Lora, "A.weight") | (Kind::AdaLora, "A") => &mut parts.a,
            (Kind::Lora, "B.weight") | (Kind::AdaLora, "B") => &mut parts.b,
            (Kind::AdaLora, "E") => &mut parts.e,
            (Kind::AdaLora, "ranknum") => &mut parts.ranknum,
            (_, "embedding_A" | "embedding_B") => {
                let message = "is an embedding, and only adapters of linear modules are read; merge the adapter in `peft` instead";
                return Err(self.error(module, message));
            }
            _ => {
                let message = format!("has the tensor {name}, which no adapter of this kind has; merge the adapter in `peft` instead");
                return Err(self.error(module, message));
            }
        };
        if let Some(other) = place.replace(name.to_owned()) {
            return Err(self.error(module, format!("is changed by {other} and by {name}, so it is not clear which one counts")));
        }
        Ok(())
    }

    /// Names of the modules that are changed.
    pub(crate) fn modules(&self) -> Vec<String> {
        self.modules.keys().cloned().collect()
    }

    /// An error about `module`.
    pub(crate) fn error(&self, module: &str, message: impl Into<String>) -> Error {
        Error::Module { module: module.to_owned(), path: self.path.clone(), message: message.into() }
    }

    /// Reads the factors of `module`, whose input has width `d_in` and whose output has width `d_out`. `None` if their rank is 0.
    pub(crate) fn read(&self, module: &str, kind: Kind, [d_in, d_out]: [usize; 2]) -> Result<Option<ModuleFactors>> {
        let parts = self.modules.get(module).cloned().unwrap_or_default();
        let (Some(a), Some(b)) = (&parts.a, &parts.b) else {
            return Err(self.error(module, "has only one of its two factors lora_A and lora_B; fetch the adapter again"));
        };
        let shape = self.shapes.get(a).map(Vec::as_slice).unwrap_or_default();
        let rank = match shape {
            [rank, width] if *width == d_in => *rank,
            _ => {
                let message = format!(
                    "lora_A has shape {shape:?}, and the module reads vectors of width {d_in}; give the model the adapter was trained on"
                );
                return Err(self.error(module, message));
            }
        };
        let shape = self.shapes.get(b).map(Vec::as_slice).unwrap_or_default();
        if shape != [d_out, rank] {
            let message = format!("lora_B has shape {shape:?} instead of {:?}; give the model the adapter was trained on", [d_out, rank]);
            return Err(self.error(module, message));
        }
        if rank == 0 {
            return Ok(None);
        }
        let matrix = |name: &str, rows: usize, cols: usize| -> Result<Matrix> {
            Matrix::new(rows, cols, self.source.read(name, &[rows, cols])?).ok_or_else(|| self.error(module, "has a misshapen factor"))
        };
        let e = match (&parts.e, kind) {
            (Some(name), _) => Some(self.source.read(name, &[rank, 1])?),
            (None, Kind::AdaLora) => return Err(self.error(module, "has no singular values (lora_E); fetch the adapter again")),
            (None, Kind::Lora) => None,
        };
        let ranknum = match &parts.ranknum {
            Some(name) => {
                let shape = self.shapes.get(name).map(Vec::as_slice).unwrap_or_default();
                if shape.iter().any(|length| *length != 1) {
                    return Err(self.error(module, format!("ranknum has shape {shape:?}, not that of a number")));
                }
                self.source.read(name, shape)?.first().copied().map(f64::from)
            }
            None => None,
        };
        Ok(Some(ModuleFactors { a: matrix(a, rank, d_in)?, b: matrix(b, d_out, rank)?, e, ranknum }))
    }
}
