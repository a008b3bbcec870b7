use easyedit_core::{Error, Hparams, ModelSpec};
use easyedit_kernels::{Ceiling, above_zero, at_least_one, at_most, below_one, ceilings, layers_within, zero_or_more};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Ranks of a change.
const RANK: Ceiling<usize> = Ceiling { most: 1 << 16, reason: "no weight of a model has a higher rank" };

/// The form of the change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoraType {
    /// Two factors.
    Lora,
    /// Two factors and a diagonal, whose ranks are shared out among the weights.
    #[default]
    AdaLora,
}

/// What an edit of a model does that carries an adapter of this method already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sequential {
    /// A new adapter on top.
    #[default]
    Stack,
    /// The same adapter goes on training.
    Continue,
}

/// Hyperparameters of LoRA and AdaLoRA. EasyEdit's keys have their meaning; those behind `model_parallel` are ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraHparams {
    /// `LoRA`.
    pub alg_name: String,
    /// The model the values were chosen for.
    pub model_name: String,
    /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
    #[serde(default)]
    pub device: Value,
    /// The form of the change.
    #[serde(default)]
    pub lora_type: LoraType,
    /// Layers whose weights are adapted, counted from 0; empty for all.
    #[serde(default)]
    pub layers: Vec<usize>,
    /// Rounds over the requests; at least 1.
    pub num_steps: usize,
    /// Learning rate of Adam; above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub lr: f64,
    /// Weight decay of Adam, which acts on the gradient; 0 or more.
    #[serde(default, deserialize_with = "easyedit_core::number")]
    pub weight_decay: f64,
    /// Kept for EasyEdit's files, whose own implementation does not read it either.
    #[serde(default, deserialize_with = "easyedit_core::number")]
    pub kl_factor: f64,
    /// Kept for EasyEdit's files, whose own implementation does not read it either.
    #[serde(default)]
    pub norm_constraint: Value,
    /// Names of the modules that are adapted, the last part or parts of their paths (`q_proj`, `attn.c_attn`), or `mlp_out` for the
    /// MLP's out-projection; empty for the projections of queries and values, or what holds them.
    #[serde(default)]
    pub target_modules: Vec<String>,
    /// Rank of a change; of AdaLoRA the mean at the end. At least 1, and at most the model's width.
    pub rank: usize,
    /// The change is scaled by this over `rank`; above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub lora_alpha: f64,
    /// Share of a module's inputs that the adapter does without in a step, the same for all tokens of that step; below 1.
    #[serde(default, deserialize_with = "easyedit_core::number")]
    pub lora_dropout: f64,
    /// Requests of one step; at least 1.
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    /// Kept for EasyEdit's files: nothing is cut here.
    #[serde(default = "easyedit_kernels::hparams_defaults::max_length")]
    pub max_length: usize,
    /// Kept for EasyEdit's files.
    #[serde(default)]
    pub model_parallel: bool,
    /// What becomes of the adapter of an earlier edit.
    #[serde(default)]
    pub sequential: Sequential,
    /// Training ends when the mean loss of a round is below this. AdaLoRA then goes to its final budget at once, and ends when the loss is
    /// below again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop_loss: Option<f64>,
    /// AdaLoRA: rank of each weight in the beginning; at least `rank`, and 1.5 times that if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_r: Option<usize>,
    /// AdaLoRA: steps before pruning; a tenth of all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_init: Option<usize>,
    /// AdaLoRA: steps with the final budget; three tenths of all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_final: Option<usize>,
    /// AdaLoRA: steps between prunings; at least 1.
    #[serde(default = "every_step", rename = "deltaT")]
    pub delta_t: usize,
    /// AdaLoRA: decay of the smoothed sensitivity; at least 0, below 1.
    #[serde(default = "smoothing")]
    pub beta1: f64,
    /// AdaLoRA: decay of the smoothed uncertainty; at least 0, below 1.
    #[serde(default = "smoothing")]
    pub beta2: f64,
    /// AdaLoRA: weight of the orthogonality term; 0 or more.
    #[serde(default = "half", deserialize_with = "easyedit_core::number")]
    pub orth_reg_weight: f64,
}

fn batch_size() -> usize {
    128
}

fn every_step() -> usize {
    1
}

fn smoothing() -> f64 {
    0.85
}

fn half() -> f64 {
    0.5
}

impl Hparams for LoraHparams {
    const METHOD: &'static str = "LoRA";
    const KEYS: &'static [&'static str] = &[
        "alg_name",
        "model_name",
        "device",
        "lora_type",
        "layers",
        "num_steps",
        "lr",
        "weight_decay",
        "kl_factor",
        "norm_constraint",
        "target_modules",
        "rank",
        "lora_alpha",
        "lora_dropout",
        "batch_size",
        "max_length",
        "model_parallel",
        "sequential",
        "early_stop_loss",
        "init_r",
        "t_init",
        "t_final",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
    ];

    fn check(&self) -> Result<(), String> {
        let ranks = [("rank", self.rank), ("init_r", self.init_r.unwrap_or(0))];
        at_most(&ranks, RANK)?;
        let steps = [("t_init", self.t_init.unwrap_or(0)), ("t_final", self.t_final.unwrap_or(0))];
        at_most(&[("num_steps", self.num_steps), ("deltaT", self.delta_t)], ceilings::STEPS)?;
        at_most(&steps, ceilings::STEPS)?;
        at_most(&[("batch_size", self.batch_size)], ceilings::BATCH)?;
        at_most(&[("max_length", self.max_length)], ceilings::LENGTH)?;
        layers_within("layers", &self.layers)?;
        at_most(&[("lr", self.lr)], ceilings::RATE)?;
        let weights = [("weight_decay", self.weight_decay), ("kl_factor", self.kl_factor), ("orth_reg_weight", self.orth_reg_weight)];
        at_most(&weights, ceilings::WEIGHT)?;
        at_most(&[("lora_alpha", self.lora_alpha)], ceilings::WEIGHT)?;
        at_most(&[("early_stop_loss", self.early_stop_loss.unwrap_or(0.0))], ceilings::LOSS)?;
        above_zero(&[("lr", self.lr), ("lora_alpha", self.lora_alpha)])?;
        zero_or_more(&weights)?;
        below_one(&[("lora_dropout", self.lora_dropout), ("beta1", self.beta1), ("beta2", self.beta2)])?;
        if let Some(loss) = self.early_stop_loss {
            above_zero(&[("early_stop_loss", loss)])?;
        }
        at_least_one(&[("num_steps", self.num_steps), ("batch_size", self.batch_size), ("rank", self.rank), ("deltaT", self.delta_t)])?;
        if let Some(init_r) = self.init_r.filter(|init_r| *init_r < self.rank) {
            return Err(format!("init_r is {init_r}, below the rank {} that is to be left", self.rank));
        }
        Ok(())
    }
}

impl LoraHparams {
    /// Values by rule: AdaLoRA on the projections of queries and values in all layers, as EasyEdit's file for LLaMA has it.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        Self {
            alg_name: Self::METHOD.to_owned(),
            model_name: spec.name.clone(),
            device: Value::from(0),
            lora_type: LoraType::AdaLora,
            layers: Vec::new(),
            num_steps: 40,
            lr: 5e-3,
            weight_decay: 0.0,
            kl_factor: 0.0,
            norm_constraint: Value::Bool(false),
            target_modules: Vec::new(),
            rank: 8,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            batch_size: batch_size(),
            max_length: easyedit_kernels::hparams_defaults::max_length(),
            model_parallel: false,
            sequential: Sequential::Stack,
            early_stop_loss: Some(0.05),
            init_r: None,
            t_init: None,
            t_final: None,
            delta_t: every_step(),
            beta1: smoothing(),
            beta2: smoothing(),
            orth_reg_weight: half(),
        }
    }

    /// Checks that the ranks fit the model.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming the key.
    pub(crate) fn check_model(&self, spec: &ModelSpec) -> easyedit_core::Result<()> {
        let widest = spec.d_model.max(spec.d_mlp);
        let ranks = [("rank", self.rank), ("init_r", self.initial_rank())];
        match ranks.into_iter().find(|(_, rank)| *rank > widest) {
            Some((key, rank)) => {
                Err(Error::hparams(format!("{key} is {rank}, but {} is {widest} wide, and no weight has a higher rank", spec.name)))
            }
            None => Ok(()),
        }
    }

    /// Rank of each weight in the beginning.
    pub(crate) fn initial_rank(&self) -> usize {
        match self.lora_type {
            LoraType::Lora => self.rank,
            LoraType::AdaLora => self.init_r.unwrap_or(self.rank + self.rank.div_ceil(2)),
        }
    }

    /// Factor of the change.
    pub(crate) fn scale(&self) -> f64 {
        self.lora_alpha / self.rank as f64
    }
}

#[cfg(test)]
mod tests {
    use easyedit_core::HparamsDocument;

    use super::*;

    const REST: &str = "alg_name: LoRA\nmodel_name: m\nlayers: []\nnum_steps: 70\nlr: 5e-3\nrank: 8\nlora_alpha: 32\n";

    fn read(lines: &str) -> Result<LoraHparams, String> {
        HparamsDocument::parse(&format!("{REST}{lines}"), "lora.yaml").and_then(|document| document.read()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_easyedits_and_the_papers() {
        let hparams = read("norm_constraint: false\ntarget_modules: ['q_proj', 'v_proj']\nlora_dropout: 0.1").unwrap();
        assert_eq!((hparams.lora_type, hparams.batch_size, hparams.initial_rank(), hparams.scale()), (LoraType::AdaLora, 128, 12, 4.0));
        assert_eq!(read("lora_type: lora").unwrap().initial_rank(), 8);
        let again = HparamsDocument::from_hparams(&hparams, "again").unwrap().read::<LoraHparams>().unwrap();
        assert_eq!(again, hparams);
    }

    #[test]
    fn ranks_beyond_any_weight_are_refused_before_anything_is_allocated() {
        let with = |line: &str| HparamsDocument::parse(&REST.replace("rank: 8", line), "lora.yaml").unwrap().read::<LoraHparams>();
        for line in ["rank: 1000000000", "rank: 8\ninit_r: 1000000000"] {
            let message = with(line).unwrap_err().to_string();
            assert!(message.contains("is 1000000000; it must be at most 65536 (no weight of a model has a higher rank)"), "{message}");
        }
        assert!(with("rank: 65536").is_ok());
    }

    #[test]
    fn errors_name_the_key() {
        for (lines, part) in [
            ("lora_dropout: 1.0", "lora_dropout"),
            ("beta1: 2.0", "beta1"),
            ("init_r: 4", "init_r"),
            ("deltaT: 0", "deltaT"),
            ("lora_type: qlora", "lora_type"),
            ("early_stop_loss: 0.0", "early_stop_loss"),
            ("sequential: on", "sequential"),
            ("deltaT: 1000000000", "deltaT is 1000000000; it must be at most 100000"),
        ] {
            let message = read(lines).unwrap_err();
            assert!(message.contains(part) && message.contains("lora.yaml"), "{message}");
        }
    }
}
