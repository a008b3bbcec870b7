use easyedit_core::tokens::FactToken;
use easyedit_core::{ModelSpec, Result};

use crate::{
    MomentNeeds, ValueConfig, ValueSite, above_zero, at_least_one, at_most, below_one, ceilings, layers_within, templates_within,
    zero_or_more,
};

/// The optimisation of a value ends when the loss is below it.
const LOSS_THRESHOLD: f64 = 5e-2;

/// Defaults of the keys that [`locate_hparams!`](crate::locate_hparams) declares.
pub mod hparams_defaults {
    use easyedit_core::ModelSpec;

    /// Adam's decay rates.
    pub fn betas() -> [f64; 2] {
        [0.9, 0.999]
    }

    /// The paper's way.
    pub fn yes() -> bool {
        true
    }

    /// Every layer.
    pub fn all() -> String {
        "all".to_owned()
    }

    /// One request at a time.
    pub fn one() -> usize {
        1
    }

    /// EasyEdit's default.
    pub fn max_length() -> usize {
        40
    }

    /// Ten context templates of five tokens and ten of ten.
    pub fn twenty_templates() -> Vec<(usize, usize)> {
        vec![(5, 10), (10, 10)]
    }

    /// Five context templates of ten tokens.
    pub fn five_templates() -> Vec<(usize, usize)> {
        vec![(10, 5)]
    }

    /// Nine tenths of what a layer is to write.
    pub fn target_share() -> f64 {
        0.9
    }

    /// Whether a model is narrower than those that EasyEdit's values were found for (1,600 and more) by so much that they do not fit: large steps
    /// of the value optimisation overshoot.
    pub fn is_small(spec: &ModelSpec) -> bool {
        /// Width of a small model.
        const SMALL: usize = 512;
        spec.d_model <= SMALL
    }

    /// Passes, learning rate and decay rates of the value optimisation: EasyEdit's for LLaMA models, or many smaller steps for a
    /// [small](is_small) one.
    pub fn value_steps(spec: &ModelSpec) -> (usize, f64, [f64; 2]) {
        if is_small(spec) { (100, 0.3, [0.5, 0.9]) } else { (25, 0.5, betas()) }
    }

    /// Five layers from an eighth of the depth on: 4 to 8 of the 7 B LLaMA's 32. They end in the first half of the model, whose second half is to
    /// read what they write.
    pub fn five_layers(spec: &ModelSpec) -> Vec<usize> {
        let first = spec.n_layers / 8;
        let last = (first + 4).min((spec.n_layers / 2).saturating_sub(1)).max(first);
        (first..=last).collect()
    }
}

/// The hyperparameters that the methods share, as their structs hold them.
#[derive(Clone, Copy, Debug)]
pub struct LocateSettings<'a> {
    /// The method's name.
    pub method: &'static str,
    /// `layers`
    pub layers: &'a [usize],
    /// `fact_token`
    pub fact_token: FactToken,
    /// `v_num_grad_steps`
    pub steps: usize,
    /// `v_loss_layer`
    pub loss_layer: usize,
    /// `max_length`
    pub max_length: usize,
    /// `v_lr`
    pub lr: f64,
    /// `v_adam_betas`
    pub betas: [f64; 2],
    /// `v_weight_decay`
    pub weight_decay: f64,
    /// `clamp_norm_factor`
    pub clamp_norm_factor: f64,
    /// `kl_factor`
    pub kl_factor: f64,
    /// `context_template_length_params`
    pub templates: &'a [(usize, usize)],
    /// `rewrite_module_tmp`
    pub rewrite_module: &'a str,
    /// What the hyperparameters say about second moments.
    pub moments: MomentNeeds<'a>,
    /// `mom2_dtype`
    pub dtype: &'a str,
}

impl LocateSettings<'_> {
    /// Checks ranges and ceilings.
    ///
    /// # Errors
    ///
    /// A message naming the key.
    pub fn check(&self) -> std::result::Result<(), String> {
        at_most(&[("v_lr", self.lr)], ceilings::RATE)?;
        at_most(
            &[("clamp_norm_factor", self.clamp_norm_factor), ("v_weight_decay", self.weight_decay), ("kl_factor", self.kl_factor)],
            ceilings::WEIGHT,
        )?;
        at_most(&[("v_num_grad_steps", self.steps)], ceilings::STEPS)?;
        at_most(&[("v_loss_layer", self.loss_layer)], ceilings::LAYERS)?;
        at_most(&[("mom2_n_samples", self.moments.samples)], ceilings::SAMPLES)?;
        at_most(&[("mom2_n_tokens", self.moments.tokens.unwrap_or(0))], ceilings::TOKENS)?;
        at_most(&[("max_length", self.max_length)], ceilings::LENGTH)?;
        layers_within("layers", self.layers)?;
        templates_within("context_template_length_params", self.templates)?;
        above_zero(&[("v_lr", self.lr), ("clamp_norm_factor", self.clamp_norm_factor)])?;
        zero_or_more(&[("v_weight_decay", self.weight_decay), ("kl_factor", self.kl_factor)])?;
        below_one(&self.betas.map(|beta| ("v_adam_betas", beta)))?;
        if self.layers.is_empty() || self.layers.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(format!("layers is {:?}; name at least one layer, in rising order", self.layers));
        }
        at_least_one(&[("v_num_grad_steps", self.steps)])?;
        if self.dtype != "float32" {
            return Err(format!("mom2_dtype is {:?}; statistics are kept as float32", self.dtype));
        }
        Ok(())
    }

    /// Checks that facts are written at their subjects, as a method needs whose contexts end at the fact token.
    ///
    /// # Errors
    ///
    /// A message naming the key.
    pub fn check_fact_token(&self) -> std::result::Result<(), String> {
        match self.fact_token {
            FactToken::Last => {
                Err(format!("fact_token is last; {} writes facts at their subjects (subject_last, subject_first, ...)", self.method))
            }
            _ => Ok(()),
        }
    }

    /// Checks that they fit the model.
    ///
    /// # Errors
    ///
    /// If it is an encoder-decoder, or a module or layer is not its.
    pub fn check_model(&self, spec: &ModelSpec) -> Result<()> {
        spec.check_decoder_only(self.method)?;
        spec.check_mlp_out(self.rewrite_module)?;
        self.layers.iter().try_for_each(|layer| spec.check_layer(*layer))
    }

    /// Settings of the value optimisation at `site`.
    pub fn value_config(&self, site: ValueSite) -> ValueConfig {
        ValueConfig {
            steps: self.steps,
            lr: self.lr,
            betas: self.betas,
            weight_decay: self.weight_decay,
            clamp_norm_factor: self.clamp_norm_factor,
            kl_factor: self.kl_factor,
            loss_threshold: LOSS_THRESHOLD,
            site,
            nll_factor: 1.0,
            once_predicted: None,
        }
    }
}

/// Declares the hyperparameters of a method that locates and edits: EasyEdit's keys that all of them have, and the method's own.
///
/// The struct gets `settings`, the shared values as [`LocateSettings`]; `by_rule(spec, layers)`, values for a model no file exists for
/// (those EasyEdit uses for LLaMA models, with smaller steps for small ones; own keys at their type's default); and `FIELDS`, the names of its keys. The crate needs `serde` and `serde_json`.
#[macro_export]
macro_rules! locate_hparams {
    (
        $(#[$meta:meta])*
        $name:ident of $method:literal, with templates $templates:literal {
            $( $(#[$field_meta:meta])* $field:ident: $type:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        pub struct $name {
            #[doc = concat!("`", $method, "`.")]
            pub alg_name: String,
            /// The model the values were chosen for.
            pub model_name: String,
            /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
            #[serde(default)]
            pub device: ::serde_json::Value,
            /// Layers to edit, in rising order, counted from 0.
            pub layers: Vec<usize>,
            /// Token at which facts are read and written.
            pub fact_token: ::easyedit_core::tokens::FactToken,
            /// Passes of the value optimisation at most; the last is not followed by an update.
            pub v_num_grad_steps: usize,
            /// Learning rate of Adam in the value optimisation; above 0.
            #[serde(deserialize_with = "easyedit_core::number")]
            pub v_lr: f64,
            /// Adam's decay rates; EasyEdit's are 0.9 and 0.999.
            #[serde(default = "easyedit_kernels::hparams_defaults::betas")]
            pub v_adam_betas: [f64; 2],
            /// Kept for EasyEdit's files: the loss always reads the model's final logits.
            pub v_loss_layer: usize,
            /// Weight of ‖δ‖ / ‖v‖² in the loss, where v is the value before; 0 or more.
            #[serde(deserialize_with = "easyedit_core::number")]
            pub v_weight_decay: f64,
            /// ‖δ‖ stays below this many times ‖v‖; above 0.
            #[serde(deserialize_with = "easyedit_core::number")]
            pub clamp_norm_factor: f64,
            /// Weight of the divergence on "{subject} is a" in the loss; 0 or more.
            #[serde(deserialize_with = "easyedit_core::number")]
            pub kl_factor: f64,
            /// Whether keys are seen through the second moment C, as the papers do. Read by ROME; the others always need C.
            #[serde(default = "easyedit_kernels::hparams_defaults::yes")]
            pub mom2_adjustment: bool,
            /// Pairs of (tokens, number) of the context templates.
            #[serde(default = $templates)]
            pub context_template_length_params: Vec<(usize, usize)>,
            /// The module whose weight is changed, e.g. `model.layers.{}.mlp.down_proj`.
            pub rewrite_module_tmp: String,
            /// A block.
            pub layer_module_tmp: String,
            /// A block's MLP.
            pub mlp_module_tmp: String,
            /// A block's attention.
            #[serde(default)]
            pub attn_module_tmp: String,
            /// The final norm; kept for EasyEdit's files.
            #[serde(default)]
            pub ln_f_module: String,
            /// The head; kept for EasyEdit's files.
            #[serde(default)]
            pub lm_head_module: String,
            /// Text the statistics are collected over: a known name or a file.
            pub mom2_dataset: String,
            /// Number of texts taken from it.
            pub mom2_n_samples: usize,
            /// Number of tokens taken from it at most; without it only `mom2_n_samples` counts.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub mom2_n_tokens: Option<usize>,
            /// `float32`.
            pub mom2_dtype: String,
            /// Folder of EasyEdit's statistics, which are used if there are any of the model.
            #[serde(default)]
            pub stats_dir: String,
            /// Kept for EasyEdit's files: evaluation never cuts a text here.
            #[serde(default = "easyedit_kernels::hparams_defaults::max_length")]
            pub max_length: usize,
            /// Kept for EasyEdit's files.
            #[serde(default)]
            pub model_parallel: bool,
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl $name {
            const FIELDS: &'static [&'static str] = &[
                "alg_name", "model_name", "device", "layers", "fact_token", "v_num_grad_steps", "v_lr", "v_adam_betas", "v_loss_layer",
                "v_weight_decay", "clamp_norm_factor", "kl_factor", "mom2_adjustment", "context_template_length_params",
                "rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module",
                "mom2_dataset", "mom2_n_samples", "mom2_n_tokens", "mom2_dtype", "stats_dir", "max_length", "model_parallel",
                $( stringify!($field), )*
            ];

            /// The values that the methods share.
            pub fn settings(&self) -> $crate::LocateSettings<'_> {
                $crate::LocateSettings {
                    method: $method,
                    layers: &self.layers,
                    fact_token: self.fact_token,
                    steps: self.v_num_grad_steps,
                    loss_layer: self.v_loss_layer,
                    max_length: self.max_length,
                    lr: self.v_lr,
                    betas: self.v_adam_betas,
                    weight_decay: self.v_weight_decay,
                    clamp_norm_factor: self.clamp_norm_factor,
                    kl_factor: self.kl_factor,
                    templates: &self.context_template_length_params,
                    rewrite_module: &self.rewrite_module_tmp,
                    moments: $crate::MomentNeeds {
                        corpus: &self.mom2_dataset,
                        samples: self.mom2_n_samples,
                        tokens: self.mom2_n_tokens,
                        stats_dir: &self.stats_dir,
                        model_name: &self.model_name,
                    },
                    dtype: &self.mom2_dtype,
                }
            }

            fn by_rule(spec: &::easyedit_core::ModelSpec, layers: Vec<usize>, templates: Vec<(usize, usize)>) -> Self {
                let (v_num_grad_steps, v_lr, v_adam_betas) = $crate::hparams_defaults::value_steps(spec);
                Self {
                    alg_name: $method.to_owned(),
                    model_name: spec.name.clone(),
                    device: ::serde_json::Value::from(0),
                    layers,
                    fact_token: ::easyedit_core::tokens::FactToken::SubjectLast,
                    v_num_grad_steps,
                    v_lr,
                    v_adam_betas,
                    v_loss_layer: spec.n_layers.saturating_sub(1),
                    v_weight_decay: 1e-3,
                    clamp_norm_factor: 4.0,
                    kl_factor: 0.0625,
                    mom2_adjustment: true,
                    context_template_length_params: templates,
                    rewrite_module_tmp: spec.modules.mlp_out.clone(),
                    layer_module_tmp: spec.modules.layer.clone(),
                    mlp_module_tmp: spec.modules.mlp.clone(),
                    attn_module_tmp: spec.modules.attention.clone(),
                    ln_f_module: spec.modules.final_norm.clone(),
                    lm_head_module: spec.modules.lm_head.clone(),
                    mom2_dataset: "wikitext-sample".to_owned(),
                    mom2_n_samples: 1000,
                    mom2_n_tokens: None,
                    mom2_dtype: "float32".to_owned(),
                    stats_dir: "./data/stats".to_owned(),
                    max_length: $crate::hparams_defaults::max_length(),
                    model_parallel: false,
                    $( $field: Default::default(), )*
                }
            }
        }
    };
}
