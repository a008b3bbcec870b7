//! The targets, one file each.

mod adapters;
mod caches;
mod checkpoint;
mod dumps;
mod edits;
mod gguf;
mod hparams;
mod npz;
mod pytorch;
mod requests;
mod safetensors;
mod sentencepiece;
mod texts;
mod tokenizer;

use crate::Target;

/// Every target, by name.
pub fn targets() -> &'static [Target] {
    &[
        Target { name: "adapters", run: adapters::run, seeds: adapters::seeds },
        Target { name: "caches", run: caches::run, seeds: caches::seeds },
        Target { name: "dumps", run: dumps::run, seeds: dumps::seeds },
        Target { name: "edits", run: edits::run, seeds: edits::seeds },
        Target { name: "gguf", run: gguf::run, seeds: gguf::seeds },
        Target { name: "hparams", run: hparams::run, seeds: hparams::seeds },
        Target { name: "npz", run: npz::run, seeds: npz::seeds },
        Target { name: "pytorch", run: pytorch::run, seeds: pytorch::seeds },
        Target { name: "requests", run: requests::run, seeds: requests::seeds },
        Target { name: "safetensors", run: safetensors::run, seeds: safetensors::seeds },
        Target { name: "sentencepiece", run: sentencepiece::run, seeds: sentencepiece::seeds },
        Target { name: "tokenizer", run: tokenizer::run, seeds: tokenizer::seeds },
    ]
}

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    targets().iter().find(|target| target.name == name)
}

/// A seed with a name.
fn seed(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.into(), bytes.into())
}
