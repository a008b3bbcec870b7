//! Edits out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::{
    Edit, LanguageModel, Matrix, ModelSpec, OutputFolder, ParamName, WeightDelta, WeightLayout, apply_all, unfinished_files,
    write_atomically,
};
use easyedit_models::{WeightType, check_output_folder};
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::CONFIG_FILE;
use crate::low_rank::{Factors, factors};
use crate::target::Target;
use crate::weights::{PREFIX, PYTORCH_WEIGHTS_FILE, WEIGHTS_FILE};
use crate::{Error, Result};

/// What was exported, for programs.
pub const PROVENANCE_FILE: &str = "easyedit.json";
const FORMAT_VERSION: u32 = 1;

/// How edits are exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// What the adapter says it was made for: a Hub id, or a path that means something where it is loaded. The model's name, if it is not given.
    pub base_model: Option<String>,
    /// Highest rank of a module. Changes of higher rank are replaced by the nearest ones of this rank; without it they are exported as they are, and
    /// changes that are not of low rank by construction are errors.
    pub rank: Option<usize>,
}

/// A module of an exported adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExportedWeight {
    /// The weight that the edits change.
    pub parameter: ParamName,
    /// Rank of its adapter.
    pub rank: usize,
    /// Frobenius norm of what a lower rank left out, over that of the change; 0 where nothing was left out.
    pub relative_error: f64,
}

/// What [`export`] wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExportedAdapter {
    /// The folder.
    #[serde(serialize_with = "serialize_shown")]
    pub folder: PathBuf,
    /// Names of the files in it.
    pub files: Vec<String>,
    /// The modules, by name.
    pub weights: Vec<ExportedWeight>,
}

/// A module that is about to be written.
struct Module {
    target: Target,
    parameter: ParamName,
    factors: Factors,
}

impl Module {
    fn rank(&self) -> usize {
        self.factors.left.shape()[1]
    }

    /// The factors as `peft` stores them: A is `[rank, in]`, B is `[out, rank]`.
    fn stored(&self) -> [(String, Matrix); 2] {
        let Factors { left, right, .. } = &self.factors;
        let (a, b) = match self.target.layout {
            WeightLayout::OutIn => (right.clone(), left.clone()),
            WeightLayout::InOut => (left.transpose(), right.transpose()),
        };
        let name = |part: &str| format!("{PREFIX}{}.lora_{part}.weight", self.target.module);
        [(name("A"), a), (name("B"), b)]
    }
}

/// Writes what `edits` change in `model`, all together, as a LoRA adapter that Hugging Face `peft` loads: `adapter_config.json` and
/// `adapter_model.safetensors`, and in `easyedit.json` which edits these are. The scale of every module is 1.
///
/// # Errors
///
/// As [`apply_all`] if the edits do not belong to the model; [`Error::Weight`] naming a weight that is not a linear module's, or whose change is
/// not of low rank; [`Error::Nothing`] if nothing is changed; [`Error::Format`] or [`Error::Models`] if `out` holds an adapter or a model already.
/// Nothing half-written stays, and what a killed run left is removed.
pub fn export(model: &dyn LanguageModel, edits: &[Edit], options: &ExportOptions, out: &Path) -> Result<ExportedAdapter> {
    let files = [WEIGHTS_FILE, PROVENANCE_FILE, CONFIG_FILE];
    let unfinished = unfinished_files(out);
    for name in files.iter().chain(&[PYTORCH_WEIGHTS_FILE]).filter(|name| !unfinished.iter().any(|file| file == *name)) {
        if out.join(name).symlink_metadata().is_ok() {
            return Err(Error::format(out.join(name), "is there already and would be overwritten; choose another --out"));
        }
    }
    check_output_folder(out)?;
    if let Some(edit) = edits.iter().find(|edit| edit.overlay.is_some()) {
        return Err(Error::Nothing(format!(
            "the edit of {} is laid over the model and changes no weights, so no adapter can hold it",
            edit.method
        )));
    }
    // All that can be wrong between edits and model is found by applying them to a copy, which shares the weights.
    let _applied = apply_all(edits, &mut *model.boxed_clone())?;
    let modules = modules(model.spec(), edits, options.rank)?;
    if modules.is_empty() {
        return Err(Error::Nothing("the edits change nothing, so there is no adapter to write".into()));
    }
    let weights: Vec<ExportedWeight> = modules.iter().map(exported).collect();
    let base_model = options.base_model.clone().unwrap_or_else(|| model.spec().name.clone());
    let contents = [
        (WEIGHTS_FILE, serialized(&modules, &out.join(WEIGHTS_FILE))?),
        (PROVENANCE_FILE, to_json(&provenance(model.spec(), &base_model, edits, &weights))),
        (CONFIG_FILE, to_json(&adapter_config(model.spec(), &base_model, &modules))),
    ];
    let folder = OutputFolder::claim(out)?;
    let staging = folder.stage()?;
    for (name, bytes) in &contents {
        write_atomically(&staging.path().join(name), |file| file.write_all(bytes))?;
    }
    staging.publish(CONFIG_FILE)?;
    Ok(ExportedAdapter { folder: out.to_owned(), files: files.map(str::to_owned).into(), weights })
}

fn exported(module: &Module) -> ExportedWeight {
    ExportedWeight { parameter: module.parameter.clone(), rank: module.rank(), relative_error: module.factors.relative_error }
}

/// The modules that `edits` change, by name, each with the change of all edits.
fn modules(spec: &ModelSpec, edits: &[Edit], rank: Option<usize>) -> Result<Vec<Module>> {
    let mut joined: BTreeMap<&ParamName, WeightDelta> = BTreeMap::new();
    for (name, change) in edits.iter().flat_map(|edit| &edit.deltas) {
        let delta = match joined.remove(name) {
            Some(earlier) => earlier.then(&change.delta, name)?,
            None => change.delta.clone(),
        };
        joined.insert(name, delta);
    }
    let mut modules = Vec::with_capacity(joined.len());
    for (name, delta) in joined {
        let target = Target::of(spec, name).map_err(|message| Error::weight(name, message))?;
        if delta.rank() != Some(0) {
            modules.push(Module { target, parameter: name.clone(), factors: factors(name, &delta, rank)? });
        }
    }
    Ok(modules)
}

fn adapter_config(spec: &ModelSpec, base_model: &str, modules: &[Module]) -> Value {
    // A scale of 1 asks for an alpha equal to the rank. `peft` finds both by the whole name of a module.
    let rank = modules.iter().map(Module::rank).max().unwrap_or_default();
    let others = modules.iter().filter(|module| module.rank() != rank);
    let pattern: Map<String, Value> = others.map(|module| (module.target.module.clone(), module.rank().into())).collect();
    json!({
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": modules.iter().any(|module| module.target.layout == WeightLayout::InOut),
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": modules.iter().map(|module| module.target.module.as_str()).collect::<Vec<_>>(),
        "task_type": if spec.encoder.is_some() { "SEQ_2_SEQ_LM" } else { "CAUSAL_LM" },
    })
}

fn provenance(spec: &ModelSpec, base_model: &str, edits: &[Edit], weights: &[ExportedWeight]) -> Value {
    let edit = |edit: &Edit| {
        json!({
            "method": edit.method, "model": edit.model, "family": edit.family, "seed": edit.seed, "hparams": edit.hparams,
            "requests": edit.requests, "parameters": edit.deltas.keys().collect::<Vec<_>>(),
        })
    };
    json!({
        "format_version": FORMAT_VERSION,
        "easyedit_version": env!("CARGO_PKG_VERSION"),
        "base_model": {"name": base_model, "model_type": spec.family},
        "edits": edits.iter().map(edit).collect::<Vec<_>>(),
        "adapter": weights,
    })
}

fn serialized(modules: &[Module], path: &Path) -> Result<Vec<u8>> {
    let failed = |e: safetensors::SafeTensorError| Error::format(path, format!("cannot be written as safetensors: {e}"));
    let part = |(name, matrix): (String, Matrix)| (name, matrix.shape().to_vec(), WeightType::F32.narrow(matrix.values()));
    let parts: Vec<(String, Vec<usize>, Vec<u8>)> = modules.iter().flat_map(Module::stored).map(part).collect();
    let mut views = Vec::with_capacity(parts.len());
    for (name, shape, bytes) in &parts {
        views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?));
    }
    safetensors::serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).map_err(failed)
}

/// Indented JSON with a line break at its end.
fn to_json(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Writes a path as text; bytes that are no UTF-8 become U+FFFD.
fn serialize_shown<S: serde::Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
