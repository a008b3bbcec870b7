use easyedit_core::{Hparams, ModelSpec, SELF_CORPUS};
use easyedit_kernels::{above_zero, at_most, ceilings, hparams_defaults, inside_one, locate_hparams};

locate_hparams! {
    /// Hyperparameters of PMET. The keys and their meaning are EasyEdit's; `context_template_length_params`, `v_adam_betas`
    /// and `target_share` are ours.
    PmetHparams of "PMET", with templates "easyedit_kernels::hparams_defaults::five_templates" {
        /// The modules whose weights are changed: the MLP's out-projection alone, which is `rewrite_module_tmp`; may be left out.
        #[serde(default)]
        rewrite_module_tmps: Vec<String>,
        /// `all`; kept for EasyEdit's files.
        #[serde(default = "easyedit_kernels::hparams_defaults::all")]
        layer_selection: String,
        /// Weight λ of the second moment against the new keys; above 0. `auto`, as without the key: in every layer the λ with which
        /// `target_share` is written.
        #[serde(default, with = "easyedit_kernels::auto_or_number")]
        mom2_update_weight: Option<f64>,
        /// Share of what each layer is to write that it writes, in the mean over the requests, where `mom2_update_weight` is `auto`; above 0 and below 1.
        #[serde(default = "easyedit_kernels::hparams_defaults::target_share", deserialize_with = "easyedit_core::number")]
        target_share: f64,
        /// Weight of the likelihood in the loss; above 0. A tenth of it counts once the target is predicted.
        #[serde(deserialize_with = "easyedit_core::number")]
        nll_loss_factor: f64,
        /// Kept for EasyEdit's files: a batch is what the editor is given.
        #[serde(default = "easyedit_kernels::hparams_defaults::one")]
        batch_size: usize,
    }
}

impl Hparams for PmetHparams {
    const METHOD: &'static str = "PMET";
    const KEYS: &'static [&'static str] = Self::FIELDS;

    fn check(&self) -> Result<(), String> {
        self.settings().check()?;
        self.settings().check_fact_token()?;
        if let Some(other) = self.rewrite_module_tmps.iter().find(|module| **module != self.rewrite_module_tmp) {
            return Err(format!(
                "rewrite_module_tmps names {other}; only {} is changed, the MLP's out-projection",
                self.rewrite_module_tmp
            ));
        }
        at_most(&[("batch_size", self.batch_size)], ceilings::BATCH)?;
        inside_one(&[("target_share", self.target_share)])?;
        let weights = [("mom2_update_weight", self.mom2_update_weight.unwrap_or(1.0)), ("nll_loss_factor", self.nll_loss_factor)];
        at_most(&weights, ceilings::WEIGHT)?;
        above_zero(&weights)
    }
}

impl PmetHparams {
    /// Values by rule: five layers from an eighth of the depth on (4 to 8 of the 7 B LLaMA's 32), the other values EasyEdit uses for LLaMA
    /// models but for λ, which is chosen in every layer for a share of 0.9, with statistics over the built-in text. A small model takes a far
    /// larger weight of the likelihood, and statistics over text that it writes itself: of its keys, text it was not trained on tells little.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        /// Tokens that a small model writes, per dimension of its keys.
        const TOKENS_PER_DIMENSION: usize = 50;
        let shared = Self::by_rule(spec, hparams_defaults::five_layers(spec), hparams_defaults::five_templates());
        let shared = match hparams_defaults::is_small(spec) {
            true => Self {
                v_lr: 0.4,
                v_adam_betas: [0.9, 0.99],
                v_weight_decay: 1.0,
                clamp_norm_factor: 20.0,
                nll_loss_factor: 200.0,
                mom2_dataset: SELF_CORPUS.to_owned(),
                mom2_n_tokens: Some(spec.d_mlp.saturating_mul(TOKENS_PER_DIMENSION)),
                ..shared
            },
            false => Self { v_num_grad_steps: 30, v_lr: 0.2, nll_loss_factor: 1.0, ..shared },
        };
        Self {
            kl_factor: 1.0,
            layer_selection: hparams_defaults::all(),
            mom2_update_weight: None,
            target_share: hparams_defaults::target_share(),
            batch_size: 1,
            ..shared
        }
    }
}
