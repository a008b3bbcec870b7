//! The golden values of `data/golden`: hidden states, logits and embeddings that PyTorch computed from tiny checkpoints of every family.

use std::path::PathBuf;

use anyhow::{Context, Result};
use easyedit::models::{Checkpoint, is_text_encoder, verify, verify_text_encoder};

use super::Checker;

const GOLDEN_FILE: &str = "golden.safetensors";

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    let tolerance = checker.tolerances.golden;
    let folder = checker.options.data.join("golden");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read the golden values in {}", folder.display()))?;
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.join(GOLDEN_FILE).is_file()).collect();
    folders.sort();
    if folders.is_empty() {
        anyhow::bail!("{} holds no golden values; name the repository's folder with --data", folder.display());
    }
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        checker.check("golden", &name, tolerance, |device, _| {
            let checkpoint = Checkpoint::open(&folder)?;
            let golden = folder.join(GOLDEN_FILE);
            let verification = match is_text_encoder(checkpoint.model_type()) {
                true => verify_text_encoder(&checkpoint.load_text_encoder(device)?, &golden, tolerance as f32)?,
                false => verify(&*checkpoint.load(device)?, &golden, tolerance as f32)?,
            };
            Ok(verification.worst().map_or(f64::INFINITY, |worst| f64::from(worst.largest_difference)))
        });
    }
    Ok(())
}
