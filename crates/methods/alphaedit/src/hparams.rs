use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{above_zero, hparams_defaults, locate_hparams};

locate_hparams! {
    /// Hyperparameters of AlphaEdit. The keys and their meaning are EasyEdit's; `context_template_length_params` and `v_adam_betas` are ours.
    #[allow(non_snake_case, reason = "EasyEdit's keys")]
    AlphaEditHparams of "AlphaEdit", with templates "easyedit_kernels::hparams_defaults::five_templates" {
        /// `all`; kept for EasyEdit's files.
        #[serde(default = "easyedit_kernels::hparams_defaults::all")]
        layer_selection: String,
        /// Kept for EasyEdit's files: nothing is weighed against the second moment, whose null space is used.
        #[serde(default, deserialize_with = "easyedit_core::number")]
        mom2_update_weight: f64,
        /// Directions in which the second moment is below it may be changed; above 0.
        #[serde(deserialize_with = "easyedit_core::number")]
        nullspace_threshold: f64,
        /// Weight of the change's own size against the new keys; above 0.
        #[serde(deserialize_with = "easyedit_core::number")]
        L2: f64,
        /// Kept for EasyEdit's files: projections are computed from the statistics.
        #[serde(default)]
        P_loc: String,
        /// Kept for EasyEdit's files: a batch is what the editor is given.
        #[serde(default = "easyedit_kernels::hparams_defaults::one")]
        batch_size: usize,
    }
}

impl Hparams for AlphaEditHparams {
    const METHOD: &'static str = "AlphaEdit";
    const KEYS: &'static [&'static str] = Self::FIELDS;

    fn check(&self) -> Result<(), String> {
        self.settings().check()?;
        self.settings().check_fact_token()?;
        above_zero(&[("nullspace_threshold", self.nullspace_threshold), ("L2", self.L2)])
    }
}

impl AlphaEditHparams {
    /// Values by rule: five layers from an eighth of the depth on (4 to 8 of the 7 B LLaMA's 32), the other values EasyEdit uses for LLaMA
    /// models, with statistics over the built-in text.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let shared = Self::by_rule(spec, hparams_defaults::five_layers(spec), hparams_defaults::five_templates());
        Self {
            layer_selection: hparams_defaults::all(),
            mom2_update_weight: 1.0,
            nullspace_threshold: 2e-2,
            L2: 1.0,
            batch_size: 1,
            ..shared
        }
    }
}
