//! Adapters in.

use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{Edit, LanguageModel, Matrix, TensorDelta, WeightDelta, WeightLayout};
use serde_json::{Value, json};

use crate::config::AdapterConfig;
use crate::target::{Target, weight_of};
use crate::weights::{AdapterWeights, ModuleFactors};
use crate::{Error, Result};

/// The method that the edits of imported adapters name.
pub const IMPORTED_METHOD: &str = "PEFT";

/// The adapter in `folder` as an edit of `model`: one low-rank change for each of its modules, with its scale multiplied in.
///
/// LoRA (also `use_rslora`, with patterns of ranks and alphas) and AdaLoRA are read, as safetensors or PyTorch's pickles, none of which is run. How
/// a weight is stored is known from the model; `fan_in_fan_out` is not asked. The edit names no requests, for the adapter knows none.
///
/// # Errors
///
/// [`Error::Format`] if the folder is no adapter, is damaged, or is more than a low-rank change (another `peft_type`, DoRA, biases, whole modules);
/// [`Error::Module`] naming a module that the model does not have or whose factors do not fit it; [`Error::Models`] naming a tensor that is
/// damaged or holds NaN.
pub fn import(folder: &Path, model: &dyn LanguageModel) -> Result<Edit> {
    let config = AdapterConfig::read(folder)?;
    let weights = AdapterWeights::open(folder, config.kind)?;
    let mut deltas = BTreeMap::new();
    let mut told = Vec::new();
    for module in weights.modules() {
        let name = weight_of(model, &module).map_err(|message| weights.error(&module, message))?;
        let target = Target::of(model.spec(), &name).map_err(|message| weights.error(&module, message))?;
        let Some(factors) = weights.read(&module, config.kind, [target.d_in, target.d_out])? else { continue };
        let rank = factors.a.shape()[0];
        let scale = config.scale(&module, rank, factors.ranknum)?;
        let delta = delta(factors, scale, target.layout);
        if !delta.is_finite() {
            return Err(weights.error(&module, format!("its change is not finite once it is scaled by {scale}; fetch the adapter again")));
        }
        told.push(json!({"parameter": name, "module": module, "rank": rank, "scale": scale}));
        let base = model.fingerprint(&name)?;
        if deltas.insert(name.clone(), TensorDelta::new(delta, base)).is_some() {
            return Err(weights.error(&module, format!("is {name}, which another module of the adapter is, too")));
        }
    }
    if deltas.is_empty() {
        return Err(Error::format(folder, "every module of the adapter has rank 0, so it changes nothing"));
    }
    let base_model = config.value.get("base_model_name_or_path").cloned().unwrap_or_default();
    Ok(Edit {
        method: IMPORTED_METHOD.to_owned(),
        model: model.spec().name.clone(),
        family: model.spec().family.clone(),
        hparams: config.value,
        seed: 0,
        requests: Vec::new(),
        diagnostics: json!({"base_model": base_model, "modules": Value::Array(told)}),
        deltas,
        overlay: None,
    })
}

/// `scale B diag(E) A` for a weight stored in `layout`.
fn delta(factors: ModuleFactors, scale: f64, layout: WeightLayout) -> WeightDelta {
    let ModuleFactors { a, b, e, .. } = factors;
    let [d_out, rank] = b.shape();
    let of_column = |column: usize| scale * e.as_ref().and_then(|e| e.get(column)).copied().map_or(1.0, f64::from);
    let scales: Vec<f64> = (0..rank).map(of_column).collect();
    let values = b.values().iter().zip(scales.iter().cycle()).map(|(value, scale)| (f64::from(*value) * scale) as f32).collect();
    let b = Matrix::new(d_out, rank, values).unwrap_or(b);
    match layout {
        WeightLayout::OutIn => WeightDelta::LowRank { left: b, right: a },
        WeightLayout::InOut => WeightDelta::LowRank { left: a.transpose(), right: b.transpose() },
    }
}
