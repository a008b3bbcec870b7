use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct DataArguments {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Show what a file of facts holds, and what is missing in it
    Inspect(InspectDataArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    easyedit data inspect counterfact.json --samples 1")]
pub(crate) struct InspectDataArguments {
    /// File of a dataset: JSON, JSON lines, or a table (.csv, .tsv)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Records to show
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) samples: usize,
    /// Fail if a record cannot be read
    #[arg(long)]
    pub(crate) strict: bool,
}
