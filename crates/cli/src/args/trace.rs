//! The flags of `easyedit trace`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ModelArgument, positive};

/// No file of facts holds more.
const MAX_FACTS: i64 = 1 << 24;
/// Corrupted passes of a fact; the mean of ten thousand is sure to a hundredth of the spread.
const MAX_SAMPLES: i64 = 10_000;
/// No model has more layers.
const MAX_WINDOW: i64 = 1 << 20;
/// A batch of a million tokens takes gigabytes in every model.
const MAX_BATCH_TOKENS: i64 = 1 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    easyedit trace --model smollm2-135m --plot eiffel.svg \\\n      \
    --prompt \"The Eiffel Tower is located in the city of\" --subject \"The Eiffel Tower\"\n  \
    easyedit trace --model smollm2-135m --requests known_1000.json --facts 20 --plot average.png \\\n      \
    --method MEMIT --write-hparams memit.yaml\n\n\
    docs/causal-tracing.md explains the experiment and how to read the picture.")]
pub(crate) struct TraceArguments {
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Sentence the model completes with the fact, with the subject in it
    #[arg(long, value_name = "TEXT", required_unless_present = "requests", requires = "subject")]
    pub(crate) prompt: Option<String>,
    /// The entity the fact is about, as it stands in the prompt
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    pub(crate) subject: Option<String>,
    /// The completion whose first token is measured; without it what the model itself predicts
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    pub(crate) target: Option<String>,
    /// File of facts instead (every format that `edit` reads); those that the model knows are traced, and averaged
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) requests: Option<PathBuf>,
    /// Trace the first N facts of the file that the model knows
    #[arg(long, value_name = "N", requires = "requests", value_parser = clap::value_parser!(u32).range(1..=MAX_FACTS))]
    pub(crate) facts: Option<u32>,
    /// What to restore
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',', default_values_t = [States::Hidden, States::Mlp, States::Attention])]
    pub(crate) restore: Vec<States>,
    /// Corrupted passes of each fact, with noise of their own
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MAX_SAMPLES))]
    pub(crate) samples: u32,
    /// Strength of the noise, in standard deviations of the subjects' embeddings
    #[arg(long, value_name = "F", default_value = "3", value_parser = positive)]
    pub(crate) noise: f64,
    /// Neighbouring layers whose MLP or attention outputs are restored together [default: 10 of 48, in proportion]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_WINDOW))]
    pub(crate) window: Option<u32>,
    /// Tokens of one batch at most; smaller needs less memory
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_TOKENS))]
    pub(crate) batch_tokens: u32,
    /// File for a heat map, .svg or .png: of the fact, or of the averages over several
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// File for all numbers, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Propose the layers to edit
    #[arg(long)]
    pub(crate) suggest_layers: bool,
    /// YAML file to write: the method's hyperparameters for this model, with the proposed layers
    #[arg(long, value_name = "FILE")]
    pub(crate) write_hparams: Option<PathBuf>,
    /// Editing method the hyperparameters are for
    #[arg(long, value_name = "METHOD", default_value = "ROME")]
    pub(crate) method: String,
}

/// States that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum States {
    /// The hidden state that leaves a layer
    Hidden,
    /// MLP outputs
    Mlp,
    /// Attention outputs
    Attention,
}
