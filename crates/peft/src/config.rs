//! `adapter_config.json`: what kind of adapter it is, and the scale of its modules.

use std::path::{Path, PathBuf};

use easyedit_models::read_json_object;
use serde_json::{Map, Value};

use crate::patterns::Patterns;
use crate::{Error, Result};

/// The configuration of an adapter.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// What `peft` adds to the divisor of an AdaLoRA adapter.
const RANKNUM_OFFSET: f64 = 1e-5;
/// `init_r` of an AdaLoRA configuration that does not say it.
const DEFAULT_INIT_RANK: f64 = 12.0;
/// `r` and `lora_alpha` of a configuration that does not say them.
const DEFAULT_RANK: f64 = 8.0;

/// Keys that make an adapter more than a low-rank change of weights when they are set, and what they mean.
const BEYOND_LOW_RANK: &[(&str, &str)] = &[
    ("use_dora", "DoRA also rescales the columns of the weight"),
    ("modules_to_save", "whole modules are replaced"),
    ("lora_bias", "biases are changed"),
    ("layer_replication", "layers are repeated"),
    ("megatron_config", "Megatron's parallel layers are used"),
    ("target_parameters", "parameters outside of linear modules are changed"),
    ("trainable_token_indices", "rows of the embedding are changed"),
    ("alora_invocation_tokens", "the adapter acts only behind certain tokens"),
    ("arrow_config", "adapters are chosen for each token"),
];
/// Beginnings of `init_lora_weights` with which `peft` changes the weights of the base model, too.
const CHANGES_BASE: &[&str] = &["pissa", "olora", "loftq", "corda"];

/// A kind of adapter that edits can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Two factors.
    Lora,
    /// Two factors with singular values between them.
    AdaLora,
}

/// What the configuration of an adapter says.
#[derive(Debug)]
pub(crate) struct AdapterConfig {
    pub(crate) kind: Kind,
    /// The JSON as it is.
    pub(crate) value: Value,
    path: PathBuf,
    rank: f64,
    alpha: f64,
    init_rank: f64,
    by_root: bool,
    ranks: Patterns,
    alphas: Patterns,
}

impl AdapterConfig {
    /// Reads the configuration in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        if !path.exists() {
            return Err(Error::format(folder, format!("has no {CONFIG_FILE}; give the folder of an adapter that `peft` saved")));
        }
        Self::new(read_json_object(&path)?, path)
    }

    fn new(value: Value, path: PathBuf) -> Result<Self> {
        let empty = Map::new();
        let keys = value.as_object().unwrap_or(&empty);
        let kind = match keys.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => Kind::Lora,
            Some("ADALORA") => Kind::AdaLora,
            Some(other) => {
                let message = format!("peft_type is {other}; edits can be made of LORA and ADALORA adapters: merge it in `peft` instead");
                return Err(Error::format(path, message));
            }
            None => return Err(Error::format(path, "peft_type is missing; give the folder of an adapter that `peft` saved")),
        };
        if let Some((key, what)) = BEYOND_LOW_RANK.iter().find(|(key, _)| keys.get(*key).is_some_and(is_set)) {
            let message = format!("{key} is set: {what}, which no low-rank edit can be; merge the adapter in `peft` instead");
            return Err(Error::format(path, message));
        }
        if let Some(bias) = keys.get("bias").filter(|bias| !bias.is_null() && bias.as_str() != Some("none")) {
            let message =
                format!("bias is {bias}: the adapter changes biases, too, which no low-rank edit can be; merge it in `peft` instead");
            return Err(Error::format(path, message));
        }
        let init = keys.get("init_lora_weights").and_then(Value::as_str).unwrap_or_default();
        if CHANGES_BASE.iter().any(|start| init.starts_with(start)) {
            let message = format!(
                "init_lora_weights is {init:?}: the adapter belongs to a base model whose weights were changed before training; convert it with \
                 `save_pretrained(..., path_initial_model_for_weight_conversion=...)` first"
            );
            return Err(Error::format(path, message));
        }
        let number = |key: &str, default: f64| match keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite())
                .ok_or_else(|| Error::format(&path, format!("{key} is {value}, not a number"))),
        };
        let (rank, alpha, init_rank) =
            (number("r", DEFAULT_RANK)?, number("lora_alpha", DEFAULT_RANK)?, number("init_r", DEFAULT_INIT_RANK)?);
        // The rank pattern of AdaLoRA says which of the first singular values were kept, and the file holds those alone.
        let ranks = if kind == Kind::Lora { Patterns::read(keys, "rank_pattern", &path)? } else { Patterns::default() };
        let alphas = if kind == Kind::Lora { Patterns::read(keys, "alpha_pattern", &path)? } else { Patterns::default() };
        let by_root = keys.get("use_rslora").is_some_and(is_set);
        Ok(Self { kind, path, rank, alpha, init_rank, by_root, ranks, alphas, value })
    }

    /// What `B A` of `module` is multiplied with; `rank` is the rank its factors have. `ranknum` is AdaLoRA's, if the file has it.
    pub(crate) fn scale(&self, module: &str, rank: usize, ranknum: Option<f64>) -> Result<f64> {
        let scale = match self.kind {
            Kind::Lora => {
                let said = self.ranks.get(module).unwrap_or(self.rank);
                if said != rank as f64 {
                    let message = format!("says rank {said} for {module}, whose factors have rank {rank}; fetch the adapter again");
                    return Err(Error::format(&self.path, message));
                }
                let alpha = self.alphas.get(module).unwrap_or(self.alpha);
                if self.by_root { alpha / said.sqrt() } else { alpha / said }
            }
            Kind::AdaLora => {
                let alpha = if self.alpha > 0.0 { self.alpha } else { self.init_rank };
                alpha / (ranknum.unwrap_or(self.init_rank) + RANKNUM_OFFSET)
            }
        };
        if scale.is_finite() {
            return Ok(scale);
        }
        Err(Error::format(&self.path, format!("gives {module} the scale {scale}; its alpha and rank are not those of an adapter")))
    }
}

/// Whether a key has a value that is not one of those that mean nothing.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(more: Value) -> Result<AdapterConfig> {
        let mut value = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "megatron_core": "megatron.core"});
        for (key, more) in more.as_object().unwrap() {
            value[key] = more.clone();
        }
        AdapterConfig::new(value, CONFIG_FILE.into())
    }

    #[test]
    fn scales_are_those_of_peft() {
        let scale = |more: Value, module: &str, rank: usize| config(more).unwrap().scale(module, rank, None).unwrap();
        assert_eq!(scale(json!({}), "a.b", 4), 2.0);
        assert_eq!(scale(json!({"use_rslora": true}), "a.b", 4), 4.0);
        let patterns = json!({"rank_pattern": {"b": 2}, "alpha_pattern": {"b": 3, "c": 1}});
        assert_eq!(scale(patterns.clone(), "a.b", 2), 1.5);
        assert_eq!(scale(patterns.clone(), "a.c", 4), 0.25);
        let misfit = config(patterns).unwrap().scale("a.b", 4, None).unwrap_err().to_string();
        assert!(misfit.contains("rank 2") && misfit.contains("rank 4"), "{misfit}");
        let ada = json!({"peft_type": "ADALORA", "init_r": 6, "lora_alpha": 3, "rank_pattern": {"a.b.lora_E": [true, false]}});
        assert!((scale(ada.clone(), "a.b", 1) - 3.0 / 6.00001).abs() < 1e-12);
        assert!((config(ada).unwrap().scale("a.b", 1, Some(2.0)).unwrap() - 3.0 / 2.00001).abs() < 1e-12);
    }

    #[test]
    fn what_edits_cannot_be_is_an_error_that_names_the_key() {
        for (more, part) in [
            (json!({"peft_type": "IA3"}), "IA3"),
            (json!({"peft_type": null}), "peft_type is missing"),
            (json!({"use_dora": true}), "use_dora"),
            (json!({"bias": "all"}), "bias is \"all\""),
            (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
            (json!({"layer_replication": [[0, 1]]}), "layer_replication"),
            (json!({"init_lora_weights": "pissa_niter_16"}), "pissa"),
            (json!({"r": "four"}), "r is \"four\""),
            (json!({"rank_pattern": [2]}), "rank_pattern"),
        ] {
            let message = config(more.clone()).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains(CONFIG_FILE), "{more}: {message}");
        }
        for harmless in
            [json!({"use_dora": false, "modules_to_save": null}), json!({"modules_to_save": [], "init_lora_weights": "gaussian"})]
        {
            assert!(config(harmless).is_ok());
        }
        let zero = config(json!({"r": 0})).unwrap().scale("a", 0, None).unwrap_err().to_string();
        assert!(zero.contains("scale"), "{zero}");
    }
}
