use easyedit_core::tokens::FactToken;
use easyedit_core::{Hparams, ModelSpec, number};
use serde::{Deserialize, Serialize};

/// Hyperparameters of ROME. The keys and their meaning are EasyEdit's; `consistent_keys` is ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RomeHparams {
    /// `ROME`.
    pub alg_name: String,
    /// The model the values were chosen for.
    pub model_name: String,
    /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
    #[serde(default)]
    pub device: serde_json::Value,
    /// Layers to edit, one after the other, counted from 0.
    pub layers: Vec<usize>,
    /// Token at which the fact is read and written.
    pub fact_token: FactToken,
    /// Passes of the value optimisation at most; the last is not followed by an update.
    pub v_num_grad_steps: usize,
    /// Learning rate of Adam in the value optimisation; above 0.
    #[serde(deserialize_with = "number")]
    pub v_lr: f64,
    /// Kept for EasyEdit's files: the loss always reads the model's final logits.
    pub v_loss_layer: usize,
    /// Weight of ‖δ‖ / ‖v‖² in the loss; 0 or more.
    #[serde(deserialize_with = "number")]
    pub v_weight_decay: f64,
    /// ‖δ‖ stays below this many times ‖v‖; above 0.
    #[serde(deserialize_with = "number")]
    pub clamp_norm_factor: f64,
    /// Weight of the divergence on "{subject} is a" in the loss; 0 or more.
    #[serde(deserialize_with = "number")]
    pub kl_factor: f64,
    /// Whether the key is multiplied by C⁻¹, as the paper does; needs statistics.
    pub mom2_adjustment: bool,
    /// Pairs of (tokens, number) of the context templates.
    pub context_template_length_params: Vec<(usize, usize)>,
    /// The module whose weight is changed, e.g. `model.layers.{}.mlp.down_proj`.
    pub rewrite_module_tmp: String,
    /// A block.
    pub layer_module_tmp: String,
    /// A block's MLP.
    pub mlp_module_tmp: String,
    /// A block's attention; not used by ROME.
    #[serde(default)]
    pub attn_module_tmp: String,
    /// The final norm; not used by ROME.
    #[serde(default)]
    pub ln_f_module: String,
    /// The head; not used by ROME.
    #[serde(default)]
    pub lm_head_module: String,
    /// Text the statistics are collected over: a known name or a file.
    pub mom2_dataset: String,
    /// Number of texts taken from it.
    pub mom2_n_samples: usize,
    /// `float32`.
    pub mom2_dtype: String,
    /// Folder of EasyEdit's statistics.
    #[serde(default)]
    pub stats_dir: String,
    /// Kept for EasyEdit's files: evaluation never cuts a text here.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Kept for EasyEdit's files.
    #[serde(default)]
    pub model_parallel: bool,
    /// Whether one averaged key k* is used in numerator and denominator, as in the paper's equation (and in R-ROME); the bare prompt
    /// weighs as much in it as the other contexts together. `false` is EasyEdit's behaviour: the plain average in the numerator,
    /// the bare prompt's key in the denominator.
    #[serde(default = "default_true")]
    pub consistent_keys: bool,
}

fn default_max_length() -> usize {
    40
}

fn default_true() -> bool {
    true
}

impl Hparams for RomeHparams {
    const METHOD: &'static str = "ROME";
    const KEYS: &'static [&'static str] = &[
        "alg_name",
        "model_name",
        "device",
        "layers",
        "fact_token",
        "v_num_grad_steps",
        "v_lr",
        "v_loss_layer",
        "v_weight_decay",
        "clamp_norm_factor",
        "kl_factor",
        "mom2_adjustment",
        "context_template_length_params",
        "rewrite_module_tmp",
        "layer_module_tmp",
        "mlp_module_tmp",
        "attn_module_tmp",
        "ln_f_module",
        "lm_head_module",
        "mom2_dataset",
        "mom2_n_samples",
        "mom2_dtype",
        "stats_dir",
        "max_length",
        "model_parallel",
        "consistent_keys",
    ];

    fn check(&self) -> Result<(), String> {
        let positive = |key: &str, value: f64| {
            if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("{key} is {value}; it must be above 0")) }
        };
        let not_negative = |key: &str, value: f64| {
            if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(format!("{key} is {value}; it must be 0 or more")) }
        };
        positive("v_lr", self.v_lr)?;
        positive("clamp_norm_factor", self.clamp_norm_factor)?;
        not_negative("v_weight_decay", self.v_weight_decay)?;
        not_negative("kl_factor", self.kl_factor)?;
        if self.layers.is_empty() {
            return Err("layers is empty; name at least one layer to edit".into());
        }
        if self.v_num_grad_steps == 0 {
            return Err("v_num_grad_steps is 0; at least 1 is needed".into());
        }
        if self.mom2_dtype != "float32" {
            return Err(format!("mom2_dtype is {:?}; statistics are kept as float32", self.mom2_dtype));
        }
        if let Some((length, count)) = self.context_template_length_params.iter().find(|(length, count)| *length > 512 || *count > 1000) {
            return Err(format!(
                "context_template_length_params asks for {count} templates of {length} tokens; at most 1000 of 512 are made"
            ));
        }
        Ok(())
    }
}

impl RomeHparams {
    /// Values by rule: the layer at 5/32 of the depth (where the 7 B LLaMA is edited), the other values EasyEdit uses for LLaMA models,
    /// with statistics over the built-in text.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let layer = (spec.n_layers * 5 / 32).clamp(usize::from(spec.n_layers > 1), spec.n_layers.saturating_sub(1));
        Self {
            alg_name: Self::METHOD.to_owned(),
            model_name: spec.name.clone(),
            device: serde_json::Value::from(0),
            layers: vec![layer],
            fact_token: FactToken::SubjectLast,
            v_num_grad_steps: 25,
            v_lr: 0.5,
            v_loss_layer: spec.n_layers.saturating_sub(1),
            v_weight_decay: 1e-3,
            clamp_norm_factor: 4.0,
            kl_factor: 0.0625,
            mom2_adjustment: true,
            context_template_length_params: vec![(5, 5), (10, 5)],
            rewrite_module_tmp: spec.modules.mlp_out.clone(),
            layer_module_tmp: spec.modules.layer.clone(),
            mlp_module_tmp: spec.modules.mlp.clone(),
            attn_module_tmp: spec.modules.attention.clone(),
            ln_f_module: spec.modules.final_norm.clone(),
            lm_head_module: spec.modules.lm_head.clone(),
            mom2_dataset: "wikitext-sample".to_owned(),
            mom2_n_samples: 1000,
            mom2_dtype: "float32".to_owned(),
            stats_dir: "./data/stats".to_owned(),
            max_length: default_max_length(),
            model_parallel: false,
            consistent_keys: true,
        }
    }
}
