//! The command line: one definition of each flag, from which the parser and the help are made.

mod adapters;
mod data;
mod index;
mod stats;
mod trace;
mod train;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(crate) use adapters::{ExportArguments, ExportFormat, ImportAdapterArguments};
pub(crate) use data::{DataArguments, DataCommand, InspectDataArguments};
pub(crate) use index::IndexArguments;
pub(crate) use stats::{CollectArguments, ImportArguments, MergeArguments, StatsArguments, StatsCommand};
pub(crate) use trace::{States, TraceArguments};
pub(crate) use train::{PlotArguments, TrainArguments, TrainCommand, TrainFiles};

/// New tokens of a continuation at most; no model has more positions.
const MAX_NEW_TOKENS: usize = 1 << 20;
/// No vocabulary has more tokens.
const MAX_TOP_K: i64 = 10_000_000;

/// Edit facts inside language models.
#[derive(Debug, Parser)]
#[command(
    name = "easyedit",
    version,
    about = "Change what a language model knows, one fact at a time",
    long_about = "Change what a language model knows, one fact at a time, without retraining it.\n\n\
                  Name a model, a fact and a method; get the edited model, the edit as a small file, and a report of what changed.",
    after_help = "Examples:\n  \
                  easyedit demo\n  \
                  easyedit edit --model smollm2-135m --out edited \\\n      \
                  --prompt \"The capital of France is\" --subject France --target Rome\n  \
                  easyedit generate --model smollm2-135m --edit edited \\\n      \
                  --prompt \"The capital of France is\"",
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Seed of everything random; the same seed gives the same result
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Where to compute: cpu, cuda, cuda:N, wgpu or tch (as far as compiled in)
    #[arg(long, global = true, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
    /// No progress bars, no warnings
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log what happens; twice for more
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Edit a fact in a small real model and show what changed
    Demo(DemoArguments),
    /// Edit facts in a model
    Edit(Box<EditArguments>),
    /// Continue prompts, with edits applied if there are any
    Generate(GenerateArguments),
    /// Measure how well a model, edited or not, predicts a text
    Perplexity(PerplexityArguments),
    /// Write a checkpoint with edits applied
    Apply(ApplyArguments),
    /// Write a checkpoint with edits taken back
    Revert(RevertArguments),
    /// Take facts out of an edit file
    Forget(ForgetArguments),
    /// Show what an edit file holds
    Inspect(InspectArguments),
    /// Write edits as an adapter that Hugging Face peft loads
    Export(ExportArguments),
    /// Make an edit file of an adapter that Hugging Face peft saved
    Import(ImportAdapterArguments),
    /// List the editing methods
    Methods,
    /// List the model families and the short names of models
    Models,
    /// Look into files of facts
    Data(DataArguments),
    /// Compute the second-moment statistics of layers ahead of time
    Stats(Box<StatsArguments>),
    /// Build the index of demonstrations of in-context editing ahead of time, or ask it
    Index(IndexArguments),
    /// Show in which layers and tokens the model recalls a fact (causal tracing)
    Trace(Box<TraceArguments>),
    /// Train a method that learns to edit (MEND)
    Train(Box<TrainArguments>),
    /// Compare a model with what another implementation computed
    Verify(VerifyArguments),
}

/// The model to work on.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArgument {
    /// Folder with config.json, .gguf file, Hub id (org/name) or short name (see `easyedit models`)
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: String,
}

#[derive(Debug, Args)]
#[command(after_help = "The model (98 MB) is fetched on the first run and kept in the user's cache folder.")]
pub(crate) struct DemoArguments {
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// What is written where.
#[derive(Clone, Debug, Args)]
pub(crate) struct OutputArguments {
    /// Folder to write results to; without it nothing is kept
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// What to write there
    #[arg(long, value_enum, value_name = "WHAT", requires = "out")]
    pub(crate) save: Option<Save>,
    /// Replace edit files of the same names; without it new ones get a number of their own
    #[arg(long, requires = "out")]
    pub(crate) overwrite: bool,
}

/// What of an edit is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Save {
    /// Edit files (*.edit.safetensors), kilobytes each
    #[default]
    Edit,
    /// The edited model as a Hugging Face checkpoint
    Checkpoint,
    /// Both
    Both,
}

impl Save {
    pub(crate) fn edit(self) -> bool {
        matches!(self, Self::Edit | Self::Both)
    }

    pub(crate) fn checkpoint(self) -> bool {
        matches!(self, Self::Checkpoint | Self::Both)
    }
}

/// How several requests belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EditMode {
    /// Each on the original model
    #[default]
    Independent,
    /// Each on top of those before it
    Sequential,
    /// All at once, as one edit
    Batch,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    easyedit edit --model smollm2-135m \\\n      \
    --prompt \"The capital of France is\" --subject France --target Rome\n  \
    easyedit edit --model ./llama-2-7b --hparams hparams/ROME/llama-7b.yaml --requests facts.json \\\n      \
    --mode sequential --out edited --save both --report report.jsonl\n  \
    easyedit edit --method FT-Api --model gpt-3.5-turbo --requests facts.json --report report.jsonl\n\n\
    FT-Api fine-tunes a model behind OpenAI's API, which is paid for. Its key is read from the\n\
    environment: OPENAI_API_KEY; so are its address (OPENAI_BASE_URL) and a proxy (HTTPS_PROXY).")]
pub(crate) struct EditArguments {
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Editing method (see `easyedit methods`)
    #[arg(long, value_name = "METHOD", default_value = "ROME")]
    pub(crate) method: String,
    /// YAML file with EasyEdit's keys; without it one is found by the model's name, or derived from the model
    #[arg(long, value_name = "FILE")]
    pub(crate) hparams: Option<PathBuf>,
    /// Sentence the model should complete anew, with the subject in it
    #[arg(long, value_name = "TEXT", required_unless_present = "requests", requires = "target")]
    pub(crate) prompt: Option<String>,
    /// The entity the fact is about, as it stands in the prompt
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    pub(crate) subject: Option<String>,
    /// The new completion
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    pub(crate) target: Option<String>,
    /// The same question in other words, to measure generalization
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    pub(crate) rephrase: Option<String>,
    /// Prompt and answer that must stay, to measure locality; may be repeated
    #[arg(long, value_name = "PROMPT::ANSWER", value_parser = prompt_and_answer, requires = "prompt")]
    pub(crate) locality: Vec<(String, String)>,
    /// File of requests instead (JSON list or JSON lines; EasyEdit's, CounterFact's and zsRE's records are read)
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) requests: Option<PathBuf>,
    /// How several requests belong together
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub(crate) mode: EditMode,
    /// Text for statistics instead of the one the hyperparameters name: a file (.txt with blank lines between documents, .json, .jsonl), a
    /// folder of such files, or `self` for text that the model writes
    #[arg(long, value_name = "TEXT")]
    pub(crate) corpus: Option<PathBuf>,
    /// File of records of other facts, from which methods that edit in the context (IKE) take demonstrations
    #[arg(long, value_name = "FILE")]
    pub(crate) demonstrations: Option<PathBuf>,
    /// Only edit, measure nothing
    #[arg(long)]
    pub(crate) no_evaluation: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    /// File for the report: one JSON record a line as each is done, a summary last
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    easyedit generate --model smollm2-135m --prompt \"The capital of France is\"\n  \
    easyedit generate --model smollm2-135m --edit edited \\\n      \
    --prompt \"The capital of France is\" --temperature 0.8 --top-p 0.9")]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Edit files to apply first, or folders of them, in any order
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) edit: Vec<PathBuf>,
    /// Text to continue; may be repeated
    #[arg(long, short, value_name = "TEXT", required = true)]
    pub(crate) prompt: Vec<String>,
    /// New tokens at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 30, value_parser = count(0, MAX_NEW_TOKENS))]
    pub(crate) max_new_tokens: usize,
    /// Draw tokens instead of taking the likeliest; higher is wilder
    #[arg(long, value_name = "T", value_parser = positive)]
    pub(crate) temperature: Option<f64>,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=MAX_TOP_K))]
    pub(crate) top_k: Option<u32>,
    /// Draw from the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) top_p: Option<f64>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    easyedit perplexity --model smollm2-135m --text wiki.txt\n  \
    easyedit perplexity --model edited/ --text me-ppl.json --json")]
pub(crate) struct PerplexityArguments {
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Edit files to apply first, or folders of them, in any order
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) edit: Vec<PathBuf>,
    /// Text to predict: a file (.txt with blank lines between documents, .json, .jsonl) or a folder of such files
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Edit files, or folders of them, in any order
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) edit: Vec<PathBuf>,
    /// Folder for the edited checkpoint
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RevertArguments {
    /// The edited model
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Edit files that were applied to it, or folders of them, in any order
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) edit: Vec<PathBuf>,
    /// The model before the edits; its weights are put back bit for bit instead of subtracting
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
    /// Folder for the restored checkpoint
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Edits whose facts stand side by side (those of GRACE, and of KN when it suppresses or enhances) can be taken \
apart; a change of weights that was made for several facts at once cannot.\n\nExample:\n  \
    easyedit forget edited/grace-batch-of-20.edit.safetensors --case-id 3 --out fewer.edit.safetensors")]
pub(crate) struct ForgetArguments {
    /// Edit file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// case_id of a fact to take out (see `easyedit inspect`); may be repeated
    #[arg(long, value_name = "N", required = true)]
    pub(crate) case_id: Vec<usize>,
    /// Edit file to write, without these facts
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Edit files, or folders of them
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "docs/verifying.md shows how to make such a file with transformers. The exit code is 1 if anything differs.")]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Safetensors file with input_ids, attention_mask, and any of logits, hidden_0, hidden_1, ...
    #[arg(long, value_name = "FILE")]
    pub(crate) golden: PathBuf,
    /// Largest absolute difference that is accepted
    #[arg(long, value_name = "D", default_value = "1e-4", value_parser = positive)]
    pub(crate) tolerance: f64,
}

fn prompt_and_answer(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once("::") {
        Some((prompt, answer)) if !prompt.trim().is_empty() && !answer.trim().is_empty() => {
            Ok((prompt.trim().to_owned(), answer.trim().to_owned()))
        }
        _ => Err("write the prompt, `::`, and its answer, e.g. \"The capital of Norway is::Oslo\"".into()),
    }
}

/// Reads a whole number from `least` to `most`.
fn count(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("it must be a whole number from {least} to {most}"))
    }
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0).ok_or_else(|| "it must be a number above 0".into())
}

fn share(text: &str) -> Result<f64, String> {
    positive(text).ok().filter(|value| *value <= 1.0).ok_or_else(|| "it must be a number above 0 and at most 1".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn counts_have_a_ceiling() {
        assert_eq!((count(0, 9)("0"), count(0, 9)("9")), (Ok(0), Ok(9)));
        for bad in ["10", "18446744073709551615", "18446744073709551616", "-1", "1.5", ""] {
            assert!(count(0, 9)(bad).unwrap_err().contains("from 0 to 9"), "{bad}");
        }
        let huge = "18446744073709551615";
        for line in [
            &["generate", "--model", "m", "--prompt", "p", "-n", huge][..],
            &["generate", "--model", "m", "--prompt", "p", "--top-k", "4294967295"],
            &["index", "--demonstrations", "d", "--nearest", "n", "-k", huge],
            &["export", "--model", "m", "--out", "o", "e", "--rank", "4294967295"],
            &["trace", "--model", "m", "--prompt", "p", "--subject", "s", "--samples", "4294967295"],
            &["trace", "--model", "m", "--prompt", "p", "--subject", "s", "--window", "4294967295"],
            &["trace", "--model", "m", "--prompt", "p", "--subject", "s", "--batch-tokens", "4294967295"],
            &["trace", "--model", "m", "--requests", "r", "--facts", "4294967295"],
            &["stats", "--model", "m", "--layers", "1", "--tokens", huge],
            &["stats", "--model", "m", "--layers", "1", "--samples", huge],
            &["stats", "--model", "m", "--layers", "1", "--chunk-tokens", huge],
            &["stats", "--model", "m", "--layers", "1", "--out", "o", "--shard", "1/18446744073709551615"],
            &["stats", "import", "--model", "m", "f", "--samples", huge],
        ] {
            let error = Arguments::try_parse_from([&["easyedit"], line].concat()).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ValueValidation, "{line:?}: {error}");
        }
    }

    #[test]
    fn a_locality_prompt_may_hold_colons() {
        assert_eq!(prompt_and_answer("In Rust, std::fs is::a module").unwrap(), ("In Rust, std::fs is".into(), "a module".into()));
        assert!(prompt_and_answer("no answer::").is_err());
        assert!(prompt_and_answer("no mark").is_err());
    }
}
