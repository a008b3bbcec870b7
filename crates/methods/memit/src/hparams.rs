use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{above_zero, hparams_defaults, locate_hparams};

locate_hparams! {
    /// Hyperparameters of MEMIT. The keys and their meaning are EasyEdit's; `context_template_length_params` and `v_adam_betas` are ours.
    MemitHparams of "MEMIT", with templates "easyedit_kernels::hparams_defaults::five_templates" {
        /// `all`; kept for EasyEdit's files.
        #[serde(default = "easyedit_kernels::hparams_defaults::all")]
        layer_selection: String,
        /// Weight λ of the second moment against the new keys; above 0.
        #[serde(deserialize_with = "easyedit_core::number")]
        mom2_update_weight: f64,
        /// Kept for EasyEdit's files: a batch is what the editor is given.
        #[serde(default = "easyedit_kernels::hparams_defaults::one")]
        batch_size: usize,
    }
}

impl Hparams for MemitHparams {
    const METHOD: &'static str = "MEMIT";
    const KEYS: &'static [&'static str] = Self::FIELDS;

    fn check(&self) -> Result<(), String> {
        self.settings().check()?;
        self.settings().check_fact_token()?;
        above_zero(&[("mom2_update_weight", self.mom2_update_weight)])
    }
}

impl MemitHparams {
    /// Values by rule: five layers from an eighth of the depth on (4 to 8 of the 7 B LLaMA's 32), the other values EasyEdit uses for LLaMA
    /// models, with statistics over the built-in text.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let shared = Self::by_rule(spec, hparams_defaults::five_layers(spec), hparams_defaults::five_templates());
        Self { layer_selection: hparams_defaults::all(), mom2_update_weight: 15_000.0, batch_size: 1, ..shared }
    }
}
