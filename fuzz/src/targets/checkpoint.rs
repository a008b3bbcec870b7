//! What is done with any kind of checkpoint.

use std::path::Path;

use easyedit::models::Checkpoint;
use easyedit::{GenerationConfig, LanguageModel, generate};

use crate::small_model::device;

/// Opens a checkpoint, reads every tensor of it, and runs the model; whether it ran.
pub(super) fn open_and_run(path: &Path) -> bool {
    let Ok(checkpoint) = Checkpoint::open(path) else { return false };
    for name in checkpoint.tensors().names() {
        if let Some(shape) = checkpoint.files().shape(&name) {
            let _ = checkpoint.tensors().read(&name, &shape);
        }
    }
    let _ = checkpoint.files().companions();
    checkpoint.load(&device()).is_ok_and(|model| say(&*model))
}

/// Has a model write two tokens; whether it can.
pub(super) fn say(model: &dyn LanguageModel) -> bool {
    let encoding = model.tokenizer().encode("ab 12");
    encoding.is_ok_and(|encoding| generate(model, &[encoding.ids], &GenerationConfig::greedy(2)).is_ok())
}
