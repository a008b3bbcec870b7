use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::locate_hparams;

locate_hparams! {
    /// Hyperparameters of ROME. The keys and their meaning are EasyEdit's; `consistent_keys` and `v_adam_betas` are ours.
    RomeHparams of "ROME", with templates "easyedit_kernels::hparams_defaults::twenty_templates" {
        /// Whether one averaged key k* is used in numerator and denominator, as in the paper's equation (and in R-ROME); the bare prompt
        /// weighs as much in it as the other contexts together. `false` is EasyEdit's behaviour: the plain average in the numerator,
        /// the bare prompt's key in the denominator.
        #[serde(default = "easyedit_kernels::hparams_defaults::yes")]
        consistent_keys: bool,
    }
}

impl Hparams for RomeHparams {
    const METHOD: &'static str = "ROME";
    const KEYS: &'static [&'static str] = Self::FIELDS;

    fn check(&self) -> Result<(), String> {
        self.settings().check()
    }
}

impl RomeHparams {
    /// Values by rule: the layer at 5/32 of the depth (where the 7 B LLaMA is edited), the other values EasyEdit uses for LLaMA models,
    /// with statistics over the built-in text.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        let layer = (spec.n_layers * 5 / 32).clamp(usize::from(spec.n_layers > 1), spec.n_layers.saturating_sub(1));
        Self { consistent_keys: true, ..Self::by_rule(spec, vec![layer], vec![(5, 5), (10, 5)]) }
    }
}
