use easyedit_core::{Error, Hparams, ModelSpec, Result, Stack};
use easyedit_kernels::{above_zero, at_least_one, at_most, ceilings, hparams_defaults, layers_within, zero_or_more};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Expansion, Replacement, Rules};

/// Where the search for a value begins. EasyEdit's `val_init`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueStart {
    /// At random numbers between 0 and 1.
    Cold,
    /// At what the MLP gives.
    #[default]
    Warm,
}

/// Hyperparameters of GRACE. The keys and their meaning are EasyEdit's; `layers`, `rewrite_module_tmp`, `eps_relative` and `loss_threshold`
/// are ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraceHparams {
    /// `GRACE`.
    pub alg_name: String,
    /// The model the values were chosen for.
    #[serde(default)]
    pub model_name: String,
    /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
    #[serde(default)]
    pub device: Value,
    /// The weight beside which the codebook stands, e.g. `model.layers[27].mlp.down_proj.weight`; it is an MLP's out-projection. One, or none
    /// where `layers` says it.
    #[serde(default)]
    pub inner_params: Vec<String>,
    /// The same by its layer, counted from 0; one. Of an encoder-decoder it is the decoder's, unless `rewrite_module_tmp` says otherwise.
    #[serde(default)]
    pub layers: Vec<usize>,
    /// The module for `layers`, e.g. `model.layers.{}.mlp.down_proj`.
    #[serde(default)]
    pub rewrite_module_tmp: String,
    /// Learning rate of Adam in the search for a value; above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub edit_lr: f64,
    /// Steps of that search at most; at least 1.
    pub n_iter: usize,
    /// The search ends once the mean negative log-likelihood of the answer's tokens is below it, in nats.
    #[serde(default = "loss_threshold", deserialize_with = "easyedit_core::number")]
    pub loss_threshold: f64,
    /// Radius of a new entry, in the units of the model's keys; above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub eps: f64,
    /// Radius of a new entry as a share of its key's norm, instead of `eps`; above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps_relative: Option<f64>,
    /// How entries grow: `coverage` or `moving_average`.
    #[serde(default)]
    pub eps_expand: Expansion,
    /// `euc`: distances are euclidean.
    #[serde(default = "euclidean")]
    pub dist_fn: String,
    /// Where the search for a value begins: `cold` or `warm`.
    #[serde(default)]
    pub val_init: ValueStart,
    /// `sgd`: EasyEdit's word for a search by gradients (which is Adam's there, too).
    #[serde(default = "by_gradient")]
    pub val_train: String,
    /// Kept for EasyEdit's files: values are not regularised.
    #[serde(default)]
    pub val_reg: Value,
    /// Kept for EasyEdit's files, which say `early_stop`; see `loss_threshold`.
    #[serde(default)]
    pub reg: Value,
    /// What a value replaces: `replace_last` or `replace_prompt`.
    #[serde(default)]
    pub replacement: Replacement,
    /// Kept for EasyEdit's files: for a way of search that is not used.
    #[serde(default)]
    pub num_pert: Value,
    /// Kept for EasyEdit's files: models run without dropout.
    #[serde(default)]
    pub dropout: Value,
    /// Kept for EasyEdit's files: a batch is what the editor is given.
    #[serde(default = "hparams_defaults::one")]
    pub batch_size: usize,
    /// Kept for EasyEdit's files: evaluation never cuts a text here.
    #[serde(default = "hparams_defaults::max_length")]
    pub max_length: usize,
    /// Kept for EasyEdit's files.
    #[serde(default)]
    pub model_parallel: bool,
}

fn loss_threshold() -> f64 {
    1e-2
}

fn euclidean() -> String {
    "euc".to_owned()
}

fn by_gradient() -> String {
    "sgd".to_owned()
}

impl Hparams for GraceHparams {
    const METHOD: &'static str = "GRACE";
    const KEYS: &'static [&'static str] = &[
        "alg_name",
        "model_name",
        "device",
        "inner_params",
        "layers",
        "rewrite_module_tmp",
        "edit_lr",
        "n_iter",
        "loss_threshold",
        "eps",
        "eps_relative",
        "eps_expand",
        "dist_fn",
        "val_init",
        "val_train",
        "val_reg",
        "reg",
        "replacement",
        "num_pert",
        "dropout",
        "batch_size",
        "max_length",
        "model_parallel",
    ];

    fn check(&self) -> std::result::Result<(), String> {
        at_most(&[("n_iter", self.n_iter)], ceilings::STEPS)?;
        at_most(&[("batch_size", self.batch_size)], ceilings::BATCH)?;
        at_most(&[("max_length", self.max_length)], ceilings::LENGTH)?;
        layers_within("layers", &self.layers)?;
        at_most(&[("edit_lr", self.edit_lr)], ceilings::RATE)?;
        at_most(&[("eps", self.eps), ("eps_relative", self.eps_relative.unwrap_or(1.0))], ceilings::WEIGHT)?;
        at_most(&[("loss_threshold", self.loss_threshold)], ceilings::LOSS)?;
        above_zero(&[("edit_lr", self.edit_lr), ("eps", self.eps), ("eps_relative", self.eps_relative.unwrap_or(1.0))])?;
        zero_or_more(&[("loss_threshold", self.loss_threshold)])?;
        at_least_one(&[("n_iter", self.n_iter)])?;
        if self.inner_params.len() + self.layers.len() != 1 {
            return Err(format!(
                "a codebook stands beside one weight, and inner_params names {} and layers {}; name one in one of them",
                self.inner_params.len(),
                self.layers.len()
            ));
        }
        if self.dist_fn != "euc" {
            return Err(format!("dist_fn is {:?}; distances are euclidean (euc)", self.dist_fn));
        }
        if self.val_train != "sgd" {
            return Err(format!("val_train is {:?}; values are found by gradients (sgd)", self.val_train));
        }
        if self.replacement == Replacement::ReplaceAll {
            return Err("replacement is replace_all, which would put the value into every token of the answer, too; use replace_last or \
                        replace_prompt"
                .into());
        }
        Ok(())
    }
}

impl GraceHparams {
    /// What all entries of the codebook have in common, and so where it stands. A layer that is named by its number alone is the decoder's.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming the key, if the layer is none of the model's, or the weight no MLP's out-projection.
    pub fn rules(&self, spec: &ModelSpec) -> Result<Rules> {
        let (stack, layer) = match (self.inner_params.first(), self.layers.first()) {
            (Some(name), _) => {
                let mut places = stacks(spec).filter_map(|stack| Some((stack, layer_of(name, spec.mlp_out_of(stack)?)?)));
                places.next().ok_or_else(|| no_mlp_out("inner_params", name, spec))?
            }
            (None, Some(layer)) => (self.stack_by_template(spec)?, *layer),
            (None, None) => return Err(Error::hparams("neither inner_params nor layers says which MLP gets the codebook")),
        };
        let rules = Rules { stack, layer, eps_expand: self.eps_expand, replacement: self.replacement };
        rules.check_layer(spec)?;
        Ok(rules)
    }

    fn stack_by_template(&self, spec: &ModelSpec) -> Result<Stack> {
        let template = self.rewrite_module_tmp.trim_end_matches(".weight");
        let mut stacks = stacks(spec).filter(|stack| template.is_empty() || spec.mlp_out_of(*stack) == Some(template));
        stacks.next().ok_or_else(|| no_mlp_out("rewrite_module_tmp", template, spec))
    }

    /// Radius of a new entry whose key has this norm.
    pub fn radius(&self, key_norm: f64) -> f32 {
        self.eps_relative.map_or(self.eps, |share| share * key_norm) as f32
    }

    /// Values by rule: the layer at 27/32 of the depth (where EasyEdit puts it in the 7 B LLaMA) but not the last, from which an answer's second
    /// token would see nothing; radii relative to the keys.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let layer = (spec.n_layers * 27 / 32).min(spec.n_layers.saturating_sub(2));
        Self {
            alg_name: Self::METHOD.to_owned(),
            model_name: spec.name.clone(),
            device: Value::from(0),
            inner_params: Vec::new(),
            layers: vec![layer],
            rewrite_module_tmp: spec.modules.mlp_out.clone(),
            edit_lr: 0.1,
            n_iter: 100,
            loss_threshold: loss_threshold(),
            eps: 1.0,
            eps_relative: Some(0.4),
            eps_expand: Expansion::Coverage,
            dist_fn: euclidean(),
            val_init: ValueStart::Warm,
            val_train: by_gradient(),
            val_reg: Value::Null,
            reg: Value::from("early_stop"),
            replacement: Replacement::ReplaceLast,
            num_pert: Value::Null,
            dropout: Value::Null,
            batch_size: 1,
            max_length: hparams_defaults::max_length(),
            model_parallel: false,
        }
    }
}

/// The stacks of a model in which a codebook can stand.
fn stacks(spec: &ModelSpec) -> impl Iterator<Item = Stack> {
    [Stack::Decoder].into_iter().chain(spec.encoder.is_some().then_some(Stack::Encoder))
}

/// The layer of the weight `name`, in the checkpoint's words or in EasyEdit's with `[27]` for `.27`, if it is one of the modules `template`.
fn layer_of(name: &str, template: &str) -> Option<usize> {
    let dotted = name.replace('[', ".").replace(']', "");
    let module = dotted.strip_suffix(".weight").unwrap_or(&dotted);
    let (before, behind) = template.split_once("{}").unwrap_or((template, ""));
    module.strip_prefix(before)?.strip_suffix(behind)?.parse().ok()
}

fn no_mlp_out(key: &str, name: &str, spec: &ModelSpec) -> Error {
    let modules: Vec<&str> = stacks(spec).filter_map(|stack| spec.mlp_out_of(stack)).collect();
    Error::hparams(format!(
        "{key} names {name}, but the codebook stands beside an MLP's out-projection, which in {} ({}) is {}",
        spec.name,
        spec.family,
        modules.join(" or ")
    ))
}
