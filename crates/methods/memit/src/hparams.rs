use easyedit_core::tokens::FactToken;
use easyedit_core::{Hparams, ModelSpec, number};
use serde::{Deserialize, Serialize};

/// Hyperparameters of MEMIT. The keys and their meaning are EasyEdit's; `context_template_length_params` is ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemitHparams {
    /// `MEMIT`.
    pub alg_name: String,
    /// The model the values were chosen for.
    pub model_name: String,
    /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
    #[serde(default)]
    pub device: serde_json::Value,
    /// Layers to edit, in this order; the change of the hidden state is wanted behind the last one.
    pub layers: Vec<usize>,
    /// `all`; kept for EasyEdit's files.
    #[serde(default = "all")]
    pub layer_selection: String,
    /// Token at which the facts are read and written; `last` is refused.
    pub fact_token: FactToken,
    /// Passes of the value optimisation at most; the last is not followed by an update.
    pub v_num_grad_steps: usize,
    /// Learning rate of Adam in the value optimisation; above 0.
    #[serde(deserialize_with = "number")]
    pub v_lr: f64,
    /// Kept for EasyEdit's files: the loss always reads the model's final logits.
    pub v_loss_layer: usize,
    /// Weight of ‖δ‖ / ‖h‖² in the loss, where h is the hidden state; 0 or more.
    #[serde(deserialize_with = "number")]
    pub v_weight_decay: f64,
    /// ‖δ‖ stays below this many times ‖h‖; above 0.
    #[serde(deserialize_with = "number")]
    pub clamp_norm_factor: f64,
    /// Weight of the divergence on "{subject} is a" in the loss; 0 or more.
    #[serde(deserialize_with = "number")]
    pub kl_factor: f64,
    /// Kept for EasyEdit's files: MEMIT always needs the second moment.
    #[serde(default = "yes")]
    pub mom2_adjustment: bool,
    /// Weight λ of the second moment against the new keys; above 0.
    #[serde(deserialize_with = "number")]
    pub mom2_update_weight: f64,
    /// Pairs of (tokens, number) of the context templates; MEMIT's own are five of ten tokens.
    #[serde(default = "template_lengths")]
    pub context_template_length_params: Vec<(usize, usize)>,
    /// The module whose weight is changed, e.g. `model.layers.{}.mlp.down_proj`.
    pub rewrite_module_tmp: String,
    /// A block.
    pub layer_module_tmp: String,
    /// A block's MLP.
    pub mlp_module_tmp: String,
    /// A block's attention; not used by MEMIT.
    #[serde(default)]
    pub attn_module_tmp: String,
    /// The final norm; not used by MEMIT.
    #[serde(default)]
    pub ln_f_module: String,
    /// The head; not used by MEMIT.
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
    #[serde(default = "max_length")]
    pub max_length: usize,
    /// Kept for EasyEdit's files: a batch is what the editor is given.
    #[serde(default = "one")]
    pub batch_size: usize,
    /// Kept for EasyEdit's files.
    #[serde(default)]
    pub model_parallel: bool,
}

fn all() -> String {
    "all".to_owned()
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

fn max_length() -> usize {
    40
}

fn template_lengths() -> Vec<(usize, usize)> {
    vec![(10, 5)]
}

impl Hparams for MemitHparams {
    const METHOD: &'static str = "MEMIT";
    const KEYS: &'static [&'static str] = &[
        "alg_name",
        "model_name",
        "device",
        "layers",
        "layer_selection",
        "fact_token",
        "v_num_grad_steps",
        "v_lr",
        "v_loss_layer",
        "v_weight_decay",
        "clamp_norm_factor",
        "kl_factor",
        "mom2_adjustment",
        "mom2_update_weight",
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
        "batch_size",
        "model_parallel",
    ];

    fn check(&self) -> Result<(), String> {
        for (key, value) in
            [("v_lr", self.v_lr), ("clamp_norm_factor", self.clamp_norm_factor), ("mom2_update_weight", self.mom2_update_weight)]
        {
            if !value.is_finite() || value <= 0.0 {
                return Err(format!("{key} is {value}; it must be above 0"));
            }
        }
        for (key, value) in [("v_weight_decay", self.v_weight_decay), ("kl_factor", self.kl_factor)] {
            if !value.is_finite() || value < 0.0 {
                return Err(format!("{key} is {value}; it must be 0 or more"));
            }
        }
        if self.layers.is_empty() || self.layers.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(format!("layers is {:?}; name at least one layer, in rising order", self.layers));
        }
        if self.v_num_grad_steps == 0 {
            return Err("v_num_grad_steps is 0; at least 1 is needed".into());
        }
        if self.fact_token == FactToken::Last {
            return Err("fact_token is last; MEMIT writes facts at their subjects (subject_last, subject_first, ...)".into());
        }
        if self.mom2_dtype != "float32" {
            return Err(format!("mom2_dtype is {:?}; statistics are kept as float32", self.mom2_dtype));
        }
        Ok(())
    }
}

impl MemitHparams {
    /// Values by rule: five layers from an eighth of the depth on (4 to 8 of the 7 B LLaMA's 32), the other values EasyEdit uses for LLaMA
    /// models, with statistics over the built-in text.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let first = spec.n_layers / 8;
        let last = (first + 4).min(spec.n_layers.saturating_sub(2)).max(first);
        Self {
            alg_name: Self::METHOD.to_owned(),
            model_name: spec.name.clone(),
            device: serde_json::Value::from(0),
            layers: (first..=last).collect(),
            layer_selection: all(),
            fact_token: FactToken::SubjectLast,
            v_num_grad_steps: 25,
            v_lr: 0.5,
            v_loss_layer: spec.n_layers.saturating_sub(1),
            v_weight_decay: 1e-3,
            clamp_norm_factor: 4.0,
            kl_factor: 0.0625,
            mom2_adjustment: true,
            mom2_update_weight: 15_000.0,
            context_template_length_params: template_lengths(),
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
            max_length: max_length(),
            batch_size: one(),
            model_parallel: false,
        }
    }
}
