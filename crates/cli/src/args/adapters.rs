use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ModelArgument;

/// No weight has a higher rank.
const MAX_RANK: i64 = 1 << 20;

/// What edits are exported as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A LoRA adapter of Hugging Face peft
    #[default]
    Peft,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    easyedit export --format peft --model smollm2-135m --out adapter edited\n\n\
In Python:\n\n\
from peft import PeftModel\n\
from transformers import AutoModelForCausalLM\n\n\
model = AutoModelForCausalLM.from_pretrained(\"HuggingFaceTB/SmolLM2-135M-Instruct\")\n\
model = PeftModel.from_pretrained(model, \"adapter\")")]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Edit files, or folders of them, in any order; all of them become one adapter
    #[arg(value_name = "EDIT", required = true)]
    pub(crate) edit: Vec<PathBuf>,
    /// What to write
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) format: ExportFormat,
    /// Folder for the adapter
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Highest rank of a module: changes of higher rank, or of none, are replaced by the nearest ones of this rank
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_RANK))]
    pub(crate) rank: Option<u32>,
    /// What the adapter says it belongs to, a Hub id or a path; without it, the model's Hub id where it is known, or its name
    #[arg(long, alias = "base-model", value_name = "NAME")]
    pub(crate) base_model_name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "LoRA (also rank-stabilised) and AdaLoRA adapters are read.\n\nExamples:\n  \
    easyedit import adapter --model smollm2-135m --out adapter.edit.safetensors\n  \
    easyedit generate --model smollm2-135m --edit adapter.edit.safetensors --prompt \"The capital of France is\"")]
pub(crate) struct ImportAdapterArguments {
    /// Folder of the adapter, with adapter_config.json
    #[arg(value_name = "DIR")]
    pub(crate) adapter: PathBuf,
    #[command(flatten)]
    pub(crate) model: ModelArgument,
    /// Edit file to write (*.edit.safetensors)
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: PathBuf,
}
