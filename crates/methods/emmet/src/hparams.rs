use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{above_zero, at_most, ceilings, hparams_defaults, inside_one, locate_hparams, zero_or_more};

locate_hparams! {
    /// Hyperparameters of EMMET. The keys and their meaning are EasyEdit's; `context_template_length_params`, `v_adam_betas`
    /// and `target_share` are ours.
    EmmetHparams of "EMMET", with templates "easyedit_kernels::hparams_defaults::five_templates" {
        /// `all`; kept for EasyEdit's files.
        #[serde(default = "easyedit_kernels::hparams_defaults::all")]
        layer_selection: String,
        /// Factor of the second moment; above 0.
        #[serde(deserialize_with = "easyedit_core::number")]
        mom2_update_weight: f64,
        /// Added to the diagonal of the scaled second moment, which keeps the change small; 0 or more.
        #[serde(default, deserialize_with = "easyedit_core::number")]
        update_norm_lambda: f64,
        /// Added to the diagonal of the keys' products; 0 makes every constraint exact. `auto`, as without the key: in every layer what makes
        /// it write `target_share`.
        #[serde(default, with = "easyedit_kernels::auto_or_number")]
        emmet_lambda: Option<f64>,
        /// Share of what each layer is to write that it writes, in the mean over the requests, where `emmet_lambda` is `auto`; above 0 and below 1.
        #[serde(default = "easyedit_kernels::hparams_defaults::target_share", deserialize_with = "easyedit_core::number")]
        target_share: f64,
        /// Kept for EasyEdit's files: a batch is what the editor is given.
        #[serde(default = "easyedit_kernels::hparams_defaults::one")]
        batch_size: usize,
    }
}

impl Hparams for EmmetHparams {
    const METHOD: &'static str = "EMMET";
    const KEYS: &'static [&'static str] = Self::FIELDS;

    fn check(&self) -> Result<(), String> {
        self.settings().check()?;
        self.settings().check_fact_token()?;
        at_most(&[("batch_size", self.batch_size)], ceilings::BATCH)?;
        inside_one(&[("target_share", self.target_share)])?;
        let weights = [("update_norm_lambda", self.update_norm_lambda), ("emmet_lambda", self.emmet_lambda.unwrap_or(0.0))];
        at_most(&weights, ceilings::WEIGHT)?;
        at_most(&[("mom2_update_weight", self.mom2_update_weight)], ceilings::WEIGHT)?;
        above_zero(&[("mom2_update_weight", self.mom2_update_weight)])?;
        zero_or_more(&weights)
    }
}

impl EmmetHparams {
    /// Values by rule: the one layer at 5/32 of the depth (where the 7 B LLaMA is edited), the other values EasyEdit uses for LLaMA models,
    /// with statistics over the built-in text.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let layer = (spec.n_layers * 5 / 32).clamp(usize::from(spec.n_layers > 1), spec.n_layers.saturating_sub(1));
        let shared = Self::by_rule(spec, vec![layer], hparams_defaults::five_templates());
        Self {
            layer_selection: hparams_defaults::all(),
            mom2_update_weight: 1.0,
            emmet_lambda: None,
            target_share: hparams_defaults::target_share(),
            batch_size: 1,
            ..shared
        }
    }
}
