use serde_json::{Map, Value, json};

use super::history::EditRecord;
use super::{SavedTensor, What, to_json};
use crate::{Checkpoint, Error, Result};

/// What was done to a saved checkpoint, for programs.
pub const PROVENANCE_FILE: &str = "easyedit.json";
const FORMAT_VERSION: u32 = 1;

/// The text of [`PROVENANCE_FILE`]; `earlier` is the source's own, if it was saved by easyedit itself.
pub(super) fn provenance(source: &Checkpoint, what: What<'_>, tensors: &[SavedTensor], earlier: Option<Vec<u8>>) -> Result<Vec<u8>> {
    let records: Vec<EditRecord> = what.edits().iter().map(EditRecord::of).collect();
    let (edits, reverted) = match what {
        What::Applied(_) => (records, Vec::new()),
        What::Reverted(_) => (Vec::new(), records),
    };
    let mut object = Map::new();
    object.insert("format_version".to_owned(), json!(FORMAT_VERSION));
    object.insert("easyedit_version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    object.insert("base_model".to_owned(), json!({ "name": source.name(), "model_type": source.model_type() }));
    object.insert("edits".to_owned(), json!(edits));
    if !reverted.is_empty() {
        object.insert("reverted".to_owned(), json!(reverted));
    }
    object.insert("tensors".to_owned(), json!(tensors));
    if let Some(earlier) = earlier {
        let path = source.path().join(PROVENANCE_FILE);
        let earlier: Value = serde_json::from_slice(&earlier)
            .map_err(|e| Error::format(&path, format!("is not JSON: {e}; remove it if the model's history does not matter")))?;
        object.insert("earlier".to_owned(), earlier);
    }
    Ok(to_json(&Value::Object(object)))
}
