use std::path::PathBuf;

use clap::{Args, Subcommand};
use easyedit::kernels::Shard;

use super::{count, positive};

/// No corpus has more tokens.
const MAX_TOKENS: usize = 1 << 40;
/// No corpus has more documents.
const MAX_DOCUMENTS: usize = 1 << 32;
/// A chunk of a million tokens takes gigabytes in every model.
const MAX_CHUNK_TOKENS: usize = 1 << 20;
/// Nobody has more machines.
const MAX_SHARDS: usize = 1 << 20;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Without --tokens, --samples, --hparams and --method, ten tokens per dimension of the keys are counted.\n\n\
        Examples:\n  \
        easyedit stats --model smollm2-135m --layers 4,5,6,7,8\n  \
        easyedit stats --model smollm2-135m --layers 4,5,6,7,8 --corpus self --tokens 20000\n  \
        easyedit stats --model ./llama-2-7b --hparams hparams/MEMIT/llama-7b.yaml --corpus wikipedia/ \\\n      \
        --shard 1/8 --out shard-1.sums\n  \
        easyedit stats merge shard-*.sums"
)]
pub(crate) struct StatsArguments {
    #[command(subcommand)]
    pub(crate) command: Option<StatsCommand>,
    #[command(flatten)]
    pub(crate) collect: Option<CollectArguments>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StatsCommand {
    /// Put the shards of a statistic together and keep it
    Merge(MergeArguments),
    /// Keep EasyEdit's files of statistics (.npz) for a model
    Import(ImportArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CollectArguments {
    /// Folder with config.json, .gguf file, Hub id (org/name) or short name (see `easyedit models`)
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: String,
    /// Layers, counted from 0; all of them are computed in one pass
    #[arg(long, value_name = "L", value_delimiter = ',', required_unless_present_any = ["hparams", "method"])]
    pub(crate) layers: Vec<usize>,
    /// Text: a file (.txt with blank lines between documents, .json, .jsonl), a folder of such files, or `self` for text that the model
    /// writes; a text that is built in otherwise
    #[arg(long, value_name = "TEXT")]
    pub(crate) corpus: Option<PathBuf>,
    /// Tokens to count at most
    #[arg(long, value_name = "N", value_parser = count(1, MAX_TOKENS))]
    pub(crate) tokens: Option<usize>,
    /// Documents to read at most (EasyEdit's mom2_n_samples)
    #[arg(long, value_name = "N", value_parser = count(1, MAX_DOCUMENTS))]
    pub(crate) samples: Option<usize>,
    /// YAML file whose layers, corpus, number of samples and dtype are used
    #[arg(long, value_name = "FILE")]
    pub(crate) hparams: Option<PathBuf>,
    /// Method whose hyperparameters for the model say what is used, if there is no file
    #[arg(long, value_name = "METHOD", conflicts_with = "hparams")]
    pub(crate) method: Option<String>,
    /// Only part I of N equal parts of the work, counted from 1, into --out; `easyedit stats merge` puts the parts together
    #[arg(long, value_name = "I/N", value_parser = shard, requires = "out", conflicts_with = "export_npz")]
    pub(crate) shard: Option<Shard>,
    /// File for the shard; an unfinished one is gone on with
    #[arg(long, short, value_name = "FILE", requires = "shard")]
    pub(crate) out: Option<PathBuf>,
    /// Also write EasyEdit's files of statistics into this folder (its stats_dir)
    #[arg(long, value_name = "DIR")]
    pub(crate) export_npz: Option<PathBuf>,
    /// Tokens run at once; chosen by the model's widths otherwise
    #[arg(long, value_name = "N", value_parser = count(1, MAX_CHUNK_TOKENS))]
    pub(crate) chunk_tokens: Option<usize>,
    /// Seconds between two checkpoints, at which a run that was interrupted goes on; 0 makes one after every chunk
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = not_negative)]
    pub(crate) checkpoint_every: f64,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    /// The files of all shards, in any order
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Also write EasyEdit's files of statistics into this folder (its stats_dir)
    #[arg(long, value_name = "DIR")]
    pub(crate) export_npz: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Folder with config.json, .gguf file, Hub id (org/name) or short name (see `easyedit models`)
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: String,
    /// EasyEdit's files, e.g. data/stats/gpt2-xl/wikipedia_stats/transformer.h.17.mlp.c_proj_float32_mom2_100000.npz
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The layer, if the file's name does not say it
    #[arg(long, value_name = "L")]
    pub(crate) layer: Option<usize>,
    /// Name of the corpus (mom2_dataset), if the folder's name does not say it
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus: Option<String>,
    /// Number of documents (mom2_n_samples), if the file does not say it
    #[arg(long, value_name = "N", value_parser = count(1, MAX_DOCUMENTS))]
    pub(crate) samples: Option<usize>,
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(0.0),
        _ => positive(text).ok().filter(|seconds| *seconds <= 1e9).ok_or_else(|| "it must be a number of seconds, 0 or more".into()),
    }
}

fn shard(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(index, of)| Shard::new(index.trim().parse().ok()?, of.trim().parse().ok()?));
    let parts = parts.filter(|shard| shard.of() <= MAX_SHARDS);
    parts.ok_or_else(|| format!("write I/N with I from 1 to N and N up to {MAX_SHARDS}, e.g. 2/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_counted_from_one() {
        assert_eq!(shard("2/8").unwrap(), Shard::new(2, 8).unwrap());
        for wrong in ["0/8", "9/8", "2", "a/b", "1/0", "-1/2", "1/99999999"] {
            assert!(shard(wrong).unwrap_err().contains("from 1 to N"), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_checked() {
        assert!(not_negative("-1").is_err() && not_negative("NaN").is_err() && not_negative("1e99").is_err());
        assert_eq!((not_negative("0"), not_negative("2.5")), (Ok(0.0), Ok(2.5)));
    }
}
