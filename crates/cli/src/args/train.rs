use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "The folder holds model.safetensors (the best state: what `archive` in a file of hyperparameters names), last.safetensors (to resume\n\
        from), log.jsonl, event files for TensorBoard, and results.json at the end.\n\n\
        Examples:\n  \
        easyedit train --hparams hparams/TRAINING/MEND/tiny-world-llama.yaml \\\n      \
        --model data/tiny-world/models/tiny-world-llama \\\n      \
        --train data/tiny-world/practice/train.jsonl --val data/tiny-world/practice/val.jsonl --out trained\n  \
        easyedit train plot trained"
)]
pub(crate) struct TrainArguments {
    #[command(subcommand)]
    pub(crate) command: Option<TrainCommand>,
    #[command(flatten)]
    pub(crate) files: Option<TrainFiles>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrainCommand {
    /// Draw the curves of a training
    Plot(PlotArguments),
}

#[derive(Debug, Args)]
pub(crate) struct TrainFiles {
    /// YAML file of the method's hyperparameters and of the training
    #[arg(long, value_name = "FILE")]
    pub(crate) hparams: PathBuf,
    /// File of records to practise on (JSON list or JSON lines; EasyEdit's, CounterFact's and zsRE's records are read)
    #[arg(long, value_name = "FILE")]
    pub(crate) train: PathBuf,
    /// File of records to measure on
    #[arg(long, value_name = "FILE")]
    pub(crate) val: PathBuf,
    /// Folder for the trained state, its checkpoints and its log
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The model; otherwise the file's model_name
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Go on with an interrupted training in --out
    #[arg(long)]
    pub(crate) resume: bool,
    /// Also write the trained state with matrices in 16 bits, at half the size
    #[arg(long, value_name = "FILE")]
    pub(crate) export: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlotArguments {
    /// Folder of a training
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Picture to write; curves.svg in the folder otherwise
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Draw only metrics whose names begin so, such as `loss/` or `edit/exact`
    #[arg(long = "metric", value_name = "NAME")]
    pub(crate) metrics: Vec<String>,
}
