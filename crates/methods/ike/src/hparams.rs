use easyedit_core::{Hparams, ModelSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The encoder of EasyEdit's files.
const ENCODER: &str = "sentence-transformers/all-MiniLM-L6-v2";
/// Demonstrations.
const MOST: usize = 10_000;
/// Parts of a ratio.
const MOST_PARTS: usize = 1000;
/// Tokens that are left free.
const MOST_RESERVE: usize = 1 << 24;

/// How demonstrations near to a fact are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retrieval {
    /// By the cosine of their embeddings.
    #[default]
    Embedding,
    /// By the words they have in common: the cosine of their TF-IDF vectors. It needs no encoder.
    Lexical,
}

/// Which demonstrations are taken, and in which order they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// EasyEdit's way: the nearest strings of whatever kind, the nearest first.
    #[default]
    Nearest,
    /// The paper's way: one string of each of the nearest records, kinds in a ratio, the nearest last.
    Ratio,
}

/// Hyperparameters of IKE. The keys are EasyEdit's up to `model_parallel`; the others are ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IkeHparams {
    /// `IKE`.
    pub alg_name: String,
    /// The model the values were chosen for.
    #[serde(default)]
    pub model_name: String,
    /// Number of demonstrations; at least 1.
    pub k: usize,
    /// The encoder of sentences: a folder, a Hub id or a short name. A folder that is not there is known by its last part.
    pub sentence_model_name: String,
    /// Kept for EasyEdit's files: the index is kept in the cache folder.
    #[serde(default)]
    pub results_dir: String,
    /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
    #[serde(default)]
    pub device: Value,
    /// Kept for EasyEdit's files.
    #[serde(default)]
    pub model_parallel: bool,
    /// File of the records that demonstrations are made of (EasyEdit's `train_ds`); without it the new fact stands alone.
    #[serde(default)]
    pub train_data: Option<String>,
    /// How demonstrations near to a fact are found.
    #[serde(default)]
    pub retrieval: Retrieval,
    /// Which of them are taken.
    #[serde(default)]
    pub selection: Selection,
    /// Copy, update and retain, for `selection: ratio`; not all 0.
    #[serde(default = "paper_ratio")]
    pub ratio: [usize; 3],
    /// Tokens that the context leaves free for the question and what is written; without it a quarter of the model's positions, 128 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<usize>,
}

fn paper_ratio() -> [usize; 3] {
    [1, 3, 4]
}

impl Hparams for IkeHparams {
    const METHOD: &'static str = "IKE";
    const KEYS: &'static [&'static str] = &[
        "alg_name",
        "model_name",
        "k",
        "sentence_model_name",
        "results_dir",
        "device",
        "model_parallel",
        "train_data",
        "retrieval",
        "selection",
        "ratio",
        "reserve",
    ];

    fn check(&self) -> Result<(), String> {
        if self.k == 0 || self.k > MOST {
            return Err(format!(
                "k is {}; the number of demonstrations is 1 to {MOST}, more than any model has room for (leave out train_data for none)",
                self.k
            ));
        }
        if let Some(part) = self.ratio.iter().find(|part| **part > MOST_PARTS) {
            return Err(format!("ratio holds {part}; its parts are at most {MOST_PARTS} (only their ratio counts)"));
        }
        if let Some(reserve) = self.reserve.filter(|reserve| *reserve > MOST_RESERVE) {
            return Err(format!("reserve is {reserve}; it must be at most {MOST_RESERVE} (no model reads that many tokens)"));
        }
        if self.ratio.iter().all(|part| *part == 0) {
            return Err("ratio is all 0; give the shares of copy, update and retain, such as [1, 3, 4]".into());
        }
        if self.retrieval == Retrieval::Embedding && self.sentence_model_name.trim().is_empty() {
            return Err("sentence_model_name is empty; name an encoder, or set retrieval to lexical".into());
        }
        Ok(())
    }
}

impl IkeHparams {
    /// EasyEdit's values, for any model.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        Self { model_name: spec.name.clone(), ..Self::default() }
    }
}

impl Default for IkeHparams {
    /// EasyEdit's values, without records.
    fn default() -> Self {
        Self {
            alg_name: Self::METHOD.to_owned(),
            model_name: String::new(),
            k: 16,
            sentence_model_name: ENCODER.to_owned(),
            results_dir: "./results".to_owned(),
            device: Value::from(0),
            model_parallel: false,
            train_data: None,
            retrieval: Retrieval::default(),
            selection: Selection::default(),
            ratio: paper_ratio(),
            reserve: None,
        }
    }
}
