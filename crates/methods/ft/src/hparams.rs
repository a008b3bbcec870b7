use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{above_zero, at_least_one, at_most, ceilings, layers_within, zero_or_more};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Where the target's tokens are predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// All of them at the last token of the prompt (FT-L).
    #[default]
    PromptLast,
    /// Each behind those before it (FT-M).
    TargetNew,
}

/// Hyperparameters of FT. The keys and their meaning are EasyEdit's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FtHparams {
    /// `FT`.
    pub alg_name: String,
    /// The model the values were chosen for.
    pub model_name: String,
    /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
    #[serde(default)]
    pub device: Value,
    /// Layers whose weights are trained, counted from 0.
    pub layers: Vec<usize>,
    /// Rounds over the requests at most; at least 1.
    pub num_steps: usize,
    /// Learning rate of Adam; above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub lr: f64,
    /// Weight decay of Adam, which acts on the gradient; 0 or more.
    #[serde(default, deserialize_with = "easyedit_core::number")]
    pub weight_decay: f64,
    /// Kept for EasyEdit's files, whose own implementation does not read it either.
    #[serde(default, deserialize_with = "easyedit_core::number")]
    pub kl_factor: f64,
    /// No number of a weight moves further than this; above 0. As in EasyEdit, `false` or a whole number is no bound.
    #[serde(default, deserialize_with = "bound", serialize_with = "bound_or_false")]
    pub norm_constraint: Option<f64>,
    /// Where the target's tokens are predicted.
    #[serde(default)]
    pub objective_optimization: Objective,
    /// Every parameter is trained whose name contains this with a layer of `layers` filled in: with the ending `.weight` a matrix, without
    /// it a bias, too.
    pub rewrite_module_tmp: String,
    /// A block; kept for EasyEdit's files, as the modules below.
    #[serde(default)]
    pub layer_module_tmp: String,
    /// A block's MLP.
    #[serde(default)]
    pub mlp_module_tmp: String,
    /// A block's attention.
    #[serde(default)]
    pub attn_module_tmp: String,
    /// The final norm.
    #[serde(default)]
    pub ln_f_module: String,
    /// The head.
    #[serde(default)]
    pub lm_head_module: String,
    /// Requests of one step; at least 1.
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    /// Kept for EasyEdit's files: nothing is cut here.
    #[serde(default = "easyedit_kernels::hparams_defaults::max_length")]
    pub max_length: usize,
    /// Kept for EasyEdit's files.
    #[serde(default)]
    pub model_parallel: bool,
}

fn batch_size() -> usize {
    64
}

/// A number with a fraction, or text that reads as a number (EasyEdit's loader makes a float of both); anything else is no bound.
fn bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Number(number) if number.is_f64() => Ok(number.as_f64()),
        Value::String(text) => {
            text.trim().parse().map(Some).map_err(|_| serde::de::Error::custom(format!("{text:?} is neither a number nor false")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(None),
        _ => Err(serde::de::Error::custom("expected a number or false")),
    }
}

fn bound_or_false<S: Serializer>(bound: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match bound {
        Some(bound) => serializer.serialize_f64(*bound),
        None => serializer.serialize_bool(false),
    }
}

impl Hparams for FtHparams {
    const METHOD: &'static str = "FT";
    const KEYS: &'static [&'static str] = &[
        "alg_name",
        "model_name",
        "device",
        "layers",
        "num_steps",
        "lr",
        "weight_decay",
        "kl_factor",
        "norm_constraint",
        "objective_optimization",
        "rewrite_module_tmp",
        "layer_module_tmp",
        "mlp_module_tmp",
        "attn_module_tmp",
        "ln_f_module",
        "lm_head_module",
        "batch_size",
        "max_length",
        "model_parallel",
    ];

    fn check(&self) -> Result<(), String> {
        at_most(&[("num_steps", self.num_steps)], ceilings::STEPS)?;
        at_most(&[("batch_size", self.batch_size)], ceilings::BATCH)?;
        at_most(&[("max_length", self.max_length)], ceilings::LENGTH)?;
        layers_within("layers", &self.layers)?;
        at_most(&[("lr", self.lr)], ceilings::RATE)?;
        above_zero(&[("lr", self.lr)])?;
        let weights = [("weight_decay", self.weight_decay), ("kl_factor", self.kl_factor)];
        at_most(&weights, ceilings::WEIGHT)?;
        zero_or_more(&weights)?;
        at_most(&[("norm_constraint", self.norm_constraint.unwrap_or(0.0))], ceilings::WEIGHT)?;
        if let Some(bound) = self.norm_constraint {
            above_zero(&[("norm_constraint", bound)])?;
        }
        at_least_one(&[("num_steps", self.num_steps), ("batch_size", self.batch_size)])?;
        if self.layers.is_empty() {
            return Err("layers is empty; name at least one layer".into());
        }
        Ok(())
    }
}

impl FtHparams {
    /// Values by rule: FT-M on the MLP's out-projection at five sixths of the depth, behind which a fact's neighbours change least.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        Self {
            alg_name: Self::METHOD.to_owned(),
            model_name: spec.name.clone(),
            device: Value::from(0),
            layers: vec![spec.n_layers * 5 / 6],
            num_steps: 40,
            lr: 5e-4,
            weight_decay: 0.0,
            kl_factor: 0.0,
            norm_constraint: None,
            objective_optimization: Objective::TargetNew,
            rewrite_module_tmp: format!("{}.weight", spec.modules.mlp_out),
            layer_module_tmp: spec.modules.layer.clone(),
            mlp_module_tmp: spec.modules.mlp.clone(),
            attn_module_tmp: spec.modules.attention.clone(),
            ln_f_module: spec.modules.final_norm.clone(),
            lm_head_module: spec.modules.lm_head.clone(),
            batch_size: batch_size(),
            max_length: easyedit_kernels::hparams_defaults::max_length(),
            model_parallel: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use easyedit_core::HparamsDocument;

    use super::*;

    const REST: &str = "alg_name: FT\nmodel_name: m\nlayers: [1]\nnum_steps: 2\nlr: 5e-4\nrewrite_module_tmp: 'a.{}.b'\n";

    fn read(lines: &str) -> Result<FtHparams, String> {
        HparamsDocument::parse(&format!("{REST}{lines}"), "ft.yaml").and_then(|document| document.read()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_bound_is_what_easyedits_loader_makes_a_float() {
        for (text, bound) in [("5e-4", Some(5e-4)), ("'5e-4'", Some(5e-4)), ("0.5", Some(0.5)), ("false", None), ("0", None), ("3", None)] {
            let hparams = read(&format!("norm_constraint: {text}")).unwrap();
            assert_eq!(hparams.norm_constraint, bound, "{text}");
            let again = HparamsDocument::from_hparams(&hparams, "again").unwrap().read::<FtHparams>().unwrap();
            assert_eq!(again, hparams);
        }
        assert_eq!(read("").unwrap().norm_constraint, None);
        assert_eq!(read("").unwrap().objective_optimization, Objective::PromptLast);
        assert_eq!(read("objective_optimization: target_new").unwrap().objective_optimization, Objective::TargetNew);
    }

    #[test]
    fn errors_name_the_key() {
        for (lines, part) in [
            ("norm_constraint: tight", "norm_constraint"),
            ("norm_constraint: -0.5", "norm_constraint"),
            ("weight_decay: -1", "weight_decay"),
            ("batch_size: 0", "batch_size"),
            ("objective_optimization: all", "objective_optimization"),
            ("norm_constrain: 1", "did you mean norm_constraint?"),
        ] {
            let message = read(lines).unwrap_err();
            assert!(message.contains(part) && message.contains("ft.yaml"), "{message}");
        }
    }
}
