use easyedit_core::Edit;
use serde_json::{Map, Value, json};

use super::{SavedTensor, to_json};
use crate::{Checkpoint, Error, Result};

/// What was done to a saved checkpoint, for programs.
pub const PROVENANCE_FILE: &str = "easyedit.json";
const FORMAT_VERSION: u32 = 1;

/// The text of [`PROVENANCE_FILE`]; `earlier` is the source's own, if it was saved by easyedit itself.
pub(super) fn provenance(source: &Checkpoint, edits: &[Edit], tensors: &[SavedTensor], earlier: Option<Vec<u8>>) -> Result<Vec<u8>> {
    let edits: Vec<Value> = edits
        .iter()
        .map(|edit| {
            json!({
                "method": edit.method,
                "model": edit.model,
                "family": edit.family,
                "seed": edit.seed,
                "hparams": edit.hparams,
                "requests": edit.requests,
                "parameters": edit.deltas.keys().collect::<Vec<_>>(),
            })
        })
        .collect();
    let mut object = Map::new();
    object.insert("format_version".to_owned(), json!(FORMAT_VERSION));
    object.insert("easyedit_version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    object.insert("base_model".to_owned(), json!({ "name": source.name(), "model_type": source.model_type() }));
    object.insert("edits".to_owned(), json!(edits));
    object.insert("tensors".to_owned(), json!(tensors));
    if let Some(earlier) = earlier {
        let path = source.path().join(PROVENANCE_FILE);
        let earlier: Value = serde_json::from_slice(&earlier)
            .map_err(|e| Error::format(&path, format!("is not JSON: {e}; remove it if the model's history does not matter")))?;
        object.insert("earlier".to_owned(), earlier);
    }
    Ok(to_json(&Value::Object(object)))
}
