use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{above_zero, hparams_defaults, locate_hparams};

locate_hparams! {
    /// Hyperparameters of PMET. The keys and their meaning are EasyEdit's; `context_template_length_params` and `v_adam_betas` are ours.
    PmetHparams of "PMET", with templates "easyedit_kernels::hparams_defaults::five_templates" {
        /// The modules whose weights are changed: the MLP's out-projection alone, which is `rewrite_module_tmp`; may be left out.
        #[serde(default)]
        rewrite_module_tmps: Vec<String>,
        /// `all`; kept for EasyEdit's files.
        #[serde(default = "easyedit_kernels::hparams_defaults::all")]
        layer_selection: String,
        /// Weight λ of the second moment against the new keys; above 0.
        #[serde(deserialize_with = "easyedit_core::number")]
        mom2_update_weight: f64,
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
        above_zero(&[("mom2_update_weight", self.mom2_update_weight), ("nll_loss_factor", self.nll_loss_factor)])
    }
}

impl PmetHparams {
    /// Values by rule: five layers from an eighth of the depth on (4 to 8 of the 7 B LLaMA's 32), the other values EasyEdit uses for LLaMA
    /// models, with statistics over the built-in text.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let shared = Self::by_rule(spec, hparams_defaults::five_layers(spec), hparams_defaults::five_templates());
        Self {
            v_num_grad_steps: 30,
            v_lr: 0.2,
            kl_factor: 1.0,
            layer_selection: hparams_defaults::all(),
            mom2_update_weight: 15_000.0,
            nll_loss_factor: 1.0,
            batch_size: 1,
            ..shared
        }
    }
}
