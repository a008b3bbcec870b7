use std::path::PathBuf;

use clap::Args;

use super::count;

/// Demonstrations that are shown at most; no file holds more.
const MAX_NEAREST: usize = 1 << 24;

#[derive(Debug, Args)]
#[command(after_help = "The embeddings are kept in the user's cache folder, where `easyedit edit --method IKE` finds them.\n\n\
    Examples:\n  \
    easyedit index --demonstrations counterfact-train.json\n  \
    easyedit index --demonstrations counterfact-train.json --nearest \"The capital of France is Rome\" -k 4")]
pub(crate) struct IndexArguments {
    /// File of records of facts (JSON list or JSON lines; EasyEdit's, CounterFact's and zsRE's records are read)
    #[arg(long, value_name = "FILE")]
    pub(crate) demonstrations: PathBuf,
    /// Sentence encoder: a folder, Hub id or short name; otherwise the one of EasyEdit's files
    #[arg(long, value_name = "MODEL")]
    pub(crate) sentence_model: Option<String>,
    /// Compare words instead of embeddings, which needs no encoder
    #[arg(long, conflicts_with = "sentence_model")]
    pub(crate) lexical: bool,
    /// Show the demonstrations nearest to this fact
    #[arg(long, value_name = "TEXT")]
    pub(crate) nearest: Option<String>,
    /// How many of them
    #[arg(short, value_name = "N", default_value_t = 16, requires = "nearest", value_parser = count(1, MAX_NEAREST))]
    pub(crate) k: usize,
}
