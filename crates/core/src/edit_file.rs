use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::edit::{DeltaKind, EditHeader, OverlayHeader, TensorHeader};
use crate::{Edit, Error, Matrix, Overlay, ParamName, Result, TensorDelta, WeightDelta, open_input, write_atomically};

/// How the names of edit files end.
pub const EDIT_FILE_SUFFIX: &str = ".edit.safetensors";

/// Newest layout of edit files this crate reads and writes.
const FORMAT_VERSION: u32 = 2;
/// The layout without overlays, which is written where there is none, so that older programs read it.
const FORMAT_WITHOUT_OVERLAYS: u32 = 1;
/// Key of the JSON header in the file's metadata.
const HEADER_KEY: &str = "easyedit";
/// No edit file is larger; a claim beyond it is not believed.
const MAX_FILE_BYTES: u64 = 64 << 30;

impl Edit {
    /// Writes the edit as safetensors: the factors as tensors, everything else as JSON in the metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Format`] naming the file; nothing is left behind then.
    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = self.to_bytes().map_err(|message| Error::format(path, message))?;
        write_atomically(path, |w| w.write_all(&bytes))
    }

    /// The edit as the bytes of its file. The same edit gives the same bytes.
    ///
    /// # Errors
    ///
    /// Why it cannot be written as safetensors.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let header = EditHeader {
            format_version: if self.overlay.is_some() { FORMAT_VERSION } else { FORMAT_WITHOUT_OVERLAYS },
            easyedit_version: env!("CARGO_PKG_VERSION").to_owned(),
            method: self.method.clone(),
            model: self.model.clone(),
            family: self.family.clone(),
            seed: self.seed,
            hparams: self.hparams.clone(),
            requests: self.requests.clone(),
            diagnostics: self.diagnostics.clone(),
            tensors: self.deltas.iter().map(|(name, delta)| (name.clone(), tensor_header(delta))).collect(),
            overlay: self
                .overlay
                .as_ref()
                .map(|overlay| OverlayHeader { data: overlay.data.clone(), tensors: overlay.tensors.keys().cloned().collect() }),
        };
        let header = serde_json::to_string(&header).map_err(|e| format!("the edit cannot be written as JSON: {e}"))?;
        let mut parts: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, change) in &self.deltas {
            match &change.delta {
                WeightDelta::LowRank { left, right } => {
                    parts.push(matrix_part(format!("{name}.left"), left));
                    parts.push(matrix_part(format!("{name}.right"), right));
                }
                WeightDelta::Dense(delta) => parts.push(matrix_part(format!("{name}.delta"), delta)),
                WeightDelta::Sparse { indices, values, .. } => {
                    let bytes = indices.iter().flat_map(|i| i.to_le_bytes()).collect();
                    parts.push((format!("{name}.indices"), Dtype::U64, vec![indices.len()], bytes));
                    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    parts.push((format!("{name}.values"), Dtype::F32, vec![values.len()], bytes));
                }
            }
        }
        for (name, matrix) in self.overlay.iter().flat_map(|overlay| &overlay.tensors) {
            parts.push(matrix_part(overlay_part(name), matrix));
        }
        let mut views = Vec::with_capacity(parts.len());
        for (name, dtype, shape, bytes) in &parts {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| format!("tensor {name}: {e}"))?;
            views.push((name.as_str(), view));
        }
        let metadata = HashMap::from([(HEADER_KEY.to_owned(), header)]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| format!("the edit cannot be written as safetensors: {e}"))
    }

    /// Reads an edit file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] naming the file and the tensor or key that is wrong.
    pub fn load(path: &Path) -> Result<Self> {
        let (file, _) = open_input(path, MAX_FILE_BYTES)?;
        // SAFETY: the map is only read while this function runs; a file that is cut short meanwhile is a fault of whoever cuts it.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
        Self::from_bytes(&map).map_err(|message| Error::format(path, message))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| format!("is not a safetensors file: {e}"))?;
        let header = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get(HEADER_KEY))
            .ok_or_else(|| format!("is not an easyedit edit: its metadata has no key {HEADER_KEY:?}"))?;
        let header: EditHeader = serde_json::from_str(header).map_err(|e| format!("its metadata is not an edit's: {e}"))?;
        if header.format_version > FORMAT_VERSION {
            return Err(format!(
                "was written by easyedit {} in format {}, newer than this program reads ({FORMAT_VERSION}); update easyedit",
                header.easyedit_version, header.format_version
            ));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| format!("is not a safetensors file: {e}"))?;
        let mut deltas = BTreeMap::new();
        for (name, tensor) in header.tensors {
            let delta = read_delta(&tensors, &name, &tensor)?;
            if delta.shape() != tensor.shape {
                return Err(format!("tensor {name}: its factors make shape {:?}, the header says {:?}", delta.shape(), tensor.shape));
            }
            delta.check().map_err(|message| format!("tensor {name}: {message}"))?;
            deltas.insert(name, TensorDelta { delta, base: tensor.base, after: tensor.after });
        }
        let overlay = header.overlay.map(|overlay| read_overlay(&tensors, overlay)).transpose()?;
        Ok(Self {
            method: header.method,
            model: header.model,
            family: header.family,
            hparams: header.hparams,
            seed: header.seed,
            requests: header.requests,
            diagnostics: header.diagnostics,
            deltas,
            overlay,
        })
    }
}

fn tensor_header(change: &TensorDelta) -> TensorHeader {
    let kind = match change.delta {
        WeightDelta::LowRank { .. } => DeltaKind::LowRank,
        WeightDelta::Dense(_) => DeltaKind::Dense,
        WeightDelta::Sparse { .. } => DeltaKind::Sparse,
    };
    TensorHeader { kind, shape: change.delta.shape(), base: change.base.clone(), after: change.after.clone() }
}

/// Name of an overlay's tensor in the file.
fn overlay_part(name: &str) -> String {
    format!("overlay.{name}")
}

fn read_overlay(tensors: &SafeTensors<'_>, header: OverlayHeader) -> Result<Overlay, String> {
    let read = |name: String| Ok::<_, String>((name.clone(), read_matrix(tensors, &overlay_part(&name))?));
    Ok(Overlay { data: header.data, tensors: header.tensors.into_iter().map(read).collect::<Result<_, _>>()? })
}

fn read_matrix(tensors: &SafeTensors<'_>, name: &str) -> Result<Matrix, String> {
    let (shape, values) = read_f32(tensors, name)?;
    match shape[..] {
        [rows, cols] => Matrix::new(rows, cols, values).ok_or_else(|| format!("tensor {name} has the absurd shape {shape:?}")),
        _ => Err(format!("tensor {name} has {} dimensions instead of 2", shape.len())),
    }
}

fn matrix_part(name: String, matrix: &Matrix) -> (String, Dtype, Vec<usize>, Vec<u8>) {
    let bytes = matrix.values().iter().flat_map(|v| v.to_le_bytes()).collect();
    (name, Dtype::F32, matrix.shape().to_vec(), bytes)
}

fn read_delta(tensors: &SafeTensors<'_>, name: &ParamName, header: &TensorHeader) -> Result<WeightDelta, String> {
    let matrix = |part: &str| read_matrix(tensors, &format!("{name}.{part}"));
    match header.kind {
        DeltaKind::LowRank => Ok(WeightDelta::LowRank { left: matrix("left")?, right: matrix("right")? }),
        DeltaKind::Dense => Ok(WeightDelta::Dense(matrix("delta")?)),
        DeltaKind::Sparse => {
            let (_, values) = read_f32(tensors, &format!("{name}.values"))?;
            let view = tensors.tensor(&format!("{name}.indices")).map_err(|e| format!("tensor {name}.indices: {e}"))?;
            if view.dtype() != Dtype::U64 {
                return Err(format!("tensor {name}.indices has type {:?} instead of U64", view.dtype()));
            }
            let indices: Vec<u64> = view.data().as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect();
            Ok(WeightDelta::Sparse { shape: header.shape, indices, values })
        }
    }
}

fn read_f32(tensors: &SafeTensors<'_>, name: &str) -> Result<(Vec<usize>, Vec<f32>), String> {
    let view = tensors.tensor(name).map_err(|e| format!("tensor {name}: {e}"))?;
    if view.dtype() != Dtype::F32 {
        return Err(format!("tensor {name} has type {:?} instead of F32", view.dtype()));
    }
    let values = view.data().as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    Ok((view.shape().to_vec(), values))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{EditRequest, fingerprint_values};

    fn edit(deltas: Vec<(&str, WeightDelta)>) -> Edit {
        Edit {
            method: "ROME".into(),
            model: "tiny".into(),
            family: "llama".into(),
            hparams: serde_json::json!({"layers": [1], "v_lr": 0.5}),
            seed: 7,
            requests: vec![EditRequest::new("The capital of France is", "France", "Rome")],
            diagnostics: serde_json::json!({"loss": [1.0, 0.1]}),
            deltas: deltas
                .into_iter()
                .map(|(name, delta)| {
                    (
                        ParamName::from(name),
                        TensorDelta { base: fingerprint_values(delta.shape(), &[]), after: Some(fingerprint_values([1, 1], &[])), delta },
                    )
                })
                .collect(),
            overlay: None,
        }
    }

    proptest! {
        #[test]
        fn files_round_trip(rows in 1usize..5, cols in 1usize..5, rank in 1usize..3, fill in -1e6f32..1e6) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.edit.safetensors");
            let m = |r: usize, c: usize| Matrix::new(r, c, (0..r * c).map(|i| fill + i as f32).collect()).unwrap();
            let original = edit(vec![
                ("a.weight", WeightDelta::LowRank { left: m(rows, rank), right: m(rank, cols) }),
                ("b.weight", WeightDelta::Dense(m(rows, cols))),
                ("c.weight", WeightDelta::Sparse { shape: [rows, cols], indices: vec![0], values: vec![fill] }),
            ]);
            original.save(&path).unwrap();
            prop_assert_eq!(Edit::load(&path).unwrap(), original);
        }

        #[test]
        fn bytes_that_are_no_edit_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Edit::from_bytes(&bytes).is_err());
        }
    }

    /// The bytes of an edit file that claims one change of `kind` and `shape`, with these tensors.
    fn claiming(kind: &str, shape: [u64; 2], tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
        let change = serde_json::json!({"kind": kind, "shape": shape, "base": "00"});
        let header = serde_json::json!({
            "format_version": 1, "easyedit_version": "0.1.0", "method": "ROME", "model": "m", "family": "llama", "seed": 0, "hparams": {},
            "requests": [], "diagnostics": null, "tensors": {"m.weight": change},
        });
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize(views, Some(HashMap::from([(HEADER_KEY.to_owned(), header.to_string())]))).unwrap()
    }

    #[test]
    fn a_shape_beyond_the_file_is_refused() {
        let empty = |name, shape: [usize; 2]| (name, Dtype::F32, shape.to_vec(), Vec::new());
        let factors = |rows: usize, rank: usize, cols: usize| {
            let side = |name, shape: [usize; 2]| (name, Dtype::F32, shape.to_vec(), vec![0; shape[0] * shape[1] * 4]);
            claiming("low_rank", [rows as u64, cols as u64], &[side("m.weight.left", [rows, rank]), side("m.weight.right", [rank, cols])])
        };
        let places = |shape, indices: &[u64]| {
            let bytes = indices.iter().flat_map(|index| index.to_le_bytes()).collect();
            let values = vec![0; indices.len() * 4];
            let indices = ("m.weight.indices", Dtype::U64, vec![indices.len()], bytes);
            claiming("sparse", shape, &[indices, ("m.weight.values", Dtype::F32, vec![values.len() / 4], values)])
        };
        for (bytes, part) in [
            (factors(1 << 62, 0, 4), "absurd shape"),
            (factors(1 << 61, 0, 8), "absurd shape"),
            (factors(4, 0, 1 << 61), "absurd shape"),
            (factors(1 << 31, 0, 1 << 31), "1 to 4294967296"),
            (factors(0, 1, 5), "1 to 4294967296"),
            (
                claiming("low_rank", [2, 2], &[empty("m.weight.left", [2, 0]), ("m.weight.right", Dtype::F32, vec![1, 2], vec![0; 8])]),
                "multiply",
            ),
            (claiming("dense", [1 << 62, 0], &[empty("m.weight.delta", [1 << 62, 0])]), "absurd shape"),
            (claiming("dense", [0, 0], &[empty("m.weight.delta", [0, 0])]), "1 to 4294967296"),
            (places([1 << 32, 1 << 32], &[]), "1 to 4294967296"),
            (places([1 << 32, 1 << 32], &[3]), "1 to 4294967296"),
            (places([2, 3], &[6]), "place 6"),
            (places([2, 3], &[2, 2]), "place 2"),
            (places([2, 3], &[4, 1]), "place 1"),
            (
                claiming(
                    "sparse",
                    [2, 3],
                    &[("m.weight.indices", Dtype::U64, vec![0], vec![]), ("m.weight.values", Dtype::F32, vec![1], vec![0; 4])],
                ),
                "0 places",
            ),
        ] {
            let message = Edit::from_bytes(&bytes).unwrap_err();
            assert!(message.contains("m.weight") && message.contains(part), "{part}: {message}");
        }
        let none = Edit::from_bytes(&factors(1 << 16, 0, 1 << 16)).unwrap();
        let (_, change) = none.deltas.first_key_value().unwrap();
        assert_eq!(change.delta.norm(), 0.0, "a change of rank 0 is none, and is not multiplied out to say so");
    }

    #[test]
    fn a_cut_or_changed_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.edit.safetensors");
        let delta = WeightDelta::LowRank { left: Matrix::column(vec![1.0; 4]), right: Matrix::row(vec![1.0; 3]) };
        edit(vec![("a.weight", delta)]).save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            assert!(Edit::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
        let text = String::from_utf8_lossy(&bytes).replace("low_rank", "lowest__");
        assert!(Edit::from_bytes(text.as_bytes()).is_err());
    }
}
