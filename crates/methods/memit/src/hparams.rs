use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{above_zero, at_most, ceilings, hparams_defaults, inside_one, locate_hparams};

locate_hparams! {
    /// Hyperparameters of MEMIT. The keys and their meaning are EasyEdit's; `context_template_length_params`, `v_adam_betas`
    /// and `target_share` are ours.
    MemitHparams of "MEMIT", with templates "easyedit_kernels::hparams_defaults::five_templates" {
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
        at_most(&[("batch_size", self.batch_size)], ceilings::BATCH)?;
        inside_one(&[("target_share", self.target_share)])?;
        let weight = self.mom2_update_weight.unwrap_or(1.0);
        at_most(&[("mom2_update_weight", weight)], ceilings::WEIGHT)?;
        above_zero(&[("mom2_update_weight", weight)])
    }
}

impl MemitHparams {
    /// Values by rule: five layers from an eighth of the depth on (4 to 8 of the 7 B LLaMA's 32), the other values EasyEdit uses for LLaMA
    /// models but for λ, which is chosen in every layer for a share of 0.9, with statistics over the built-in text.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let shared = Self::by_rule(spec, hparams_defaults::five_layers(spec), hparams_defaults::five_templates());
        Self {
            layer_selection: hparams_defaults::all(),
            mom2_update_weight: None,
            target_share: hparams_defaults::target_share(),
            batch_size: 1,
            ..shared
        }
    }
}
