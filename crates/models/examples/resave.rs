//! Saves a checkpoint as easyedit does after an edit, but without one: `resave MODEL OUT`. For checking that other programs load what is
//! written, and for turning PyTorch's files or GGUF into a folder of safetensors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use easyedit_models::{Checkpoint, save_checkpoint};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, out] = arguments.as_slice() else { return Err("usage: resave MODEL OUT".into()) };
    let saved = save_checkpoint(&Checkpoint::open(model)?, &BTreeMap::new(), &[], out)?;
    println!("{}: {}", saved.folder.display(), saved.files.join(", "));
    Ok(())
}
