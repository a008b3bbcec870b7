use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{above_zero, at_most, ceilings, hparams_defaults, inside_one, locate_hparams, zero_or_more};

locate_hparams! {
    /// Hyperparameters of AlphaEdit. The keys and their meaning are EasyEdit's; `context_template_length_params`, `v_adam_betas`
    /// and `target_share` are ours.
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
        /// Weight of the change's own size against the new keys; above 0. `auto`, as without the key: in every layer the weight with which
        /// `target_share` is written.
        #[serde(default, with = "easyedit_kernels::auto_or_number")]
        L2: Option<f64>,
        /// Share of what each layer is to write that it writes, in the mean over the requests, where `L2` is `auto`; above 0 and below 1.
        #[serde(default = "easyedit_kernels::hparams_defaults::target_share", deserialize_with = "easyedit_core::number")]
        target_share: f64,
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
        at_most(&[("batch_size", self.batch_size)], ceilings::BATCH)?;
        inside_one(&[("target_share", self.target_share)])?;
        zero_or_more(&[("mom2_update_weight", self.mom2_update_weight)])?;
        at_most(&[("mom2_update_weight", self.mom2_update_weight)], ceilings::WEIGHT)?;
        let values = [("nullspace_threshold", self.nullspace_threshold), ("L2", self.L2.unwrap_or(1.0))];
        at_most(&values, ceilings::WEIGHT)?;
        above_zero(&values)
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
            L2: None,
            target_share: hparams_defaults::target_share(),
            batch_size: 1,
            ..shared
        }
    }
}
