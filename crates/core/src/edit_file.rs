use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::artefact::{EncodedArtefact, ReadTensors};
use crate::edit::{DeltaKind, EditHeader, OverlayHeader, TensorHeader};
use crate::{
    ArtefactFile, ArtefactLabel, ArtefactTensor, Edit, Error, Matrix, Overlay, ParamName, Result, TensorDelta, WeightDelta,
    write_atomically,
};

/// How the names of edit files end.
pub const EDIT_FILE_SUFFIX: &str = ".edit.safetensors";

/// The kind of artefact.
const KIND: &str = "edit/3";
/// Key of the header in the metadata of files of the formats 1 and 2, which have neither a label nor a checksum.
const KEY_BEFORE_LABELS: &str = "easyedit";
/// The last format without a label.
const LAST_BEFORE_LABELS: u32 = 2;
/// The tensors of no edit have more bytes; a claim beyond it is not believed.
const MAX_TENSOR_BYTES: u64 = 64 << 30;

impl Edit {
    /// Writes the edit as safetensors: the factors as tensors, everything else as JSON in the metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Format`] naming the file; nothing is left behind then.
    pub fn save(&self, path: &Path) -> Result<()> {
        let encoded = self.encode().map_err(|message| Error::format(path, message))?;
        write_atomically(path, |w| encoded.write_to(w))
    }

    /// The edit as the bytes of its file. The same edit gives the same bytes.
    ///
    /// # Errors
    ///
    /// Why it cannot be written as safetensors.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        Ok(self.encode()?.to_bytes())
    }

    fn encode(&self) -> Result<EncodedArtefact<'_>, String> {
        let header = EditHeader {
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
        let label = ArtefactLabel::new(KIND, &(), &header).map_err(|e| format!("the edit cannot be written as JSON: {e}"))?;
        let mut tensors = BTreeMap::new();
        for (name, change) in &self.deltas {
            match &change.delta {
                WeightDelta::LowRank { left, right } => {
                    tensors.insert(format!("{name}.left"), matrix_tensor(left));
                    tensors.insert(format!("{name}.right"), matrix_tensor(right));
                }
                WeightDelta::Dense(delta) => _ = tensors.insert(format!("{name}.delta"), matrix_tensor(delta)),
                WeightDelta::Sparse { indices, values, .. } => {
                    tensors.insert(format!("{name}.indices"), ArtefactTensor::of_u64(indices));
                    tensors.insert(format!("{name}.values"), ArtefactTensor::of_f32(&[values.len()], values));
                }
            }
        }
        let of_overlay = self.overlay.iter().flat_map(|overlay| &overlay.tensors);
        tensors.extend(of_overlay.map(|(name, matrix)| (overlay_part(name), matrix_tensor(matrix))));
        EncodedArtefact::new(label, tensors)
    }

    /// Reads an edit file, of this format or of the formats 1 and 2.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] naming the file and the tensor or key that is wrong; a newer format is refused with
    /// the advice to update.
    pub fn load(path: &Path) -> Result<Self> {
        Self::read(ArtefactFile::open(path, MAX_TENSOR_BYTES)?)
    }

    fn read(file: ArtefactFile<impl Read>) -> Result<Self> {
        if file.has_label() {
            let label = file.label(KIND)?;
            let header = label.facts(file.path())?;
            return Self::from_parts(header, ReadTensors::read(file, Some(&label))?);
        }
        let fault = |message| Error::format(file.path(), message);
        let header = file
            .entry(KEY_BEFORE_LABELS)
            .ok_or_else(|| fault("is not an easyedit edit: its metadata has no label of easyedit".to_owned()))?;
        let header = header_before_labels(header).map_err(fault)?;
        Self::from_parts(header, ReadTensors::read(file, None)?)
    }

    fn from_parts(header: EditHeader, mut tensors: ReadTensors) -> Result<Self> {
        let mut deltas = BTreeMap::new();
        for (name, tensor) in header.tensors {
            let delta = read_delta(&mut tensors, &name, &tensor)?;
            let fault = |message: String| tensors.fault(format!("tensor {name}: {message}"));
            if delta.shape() != tensor.shape {
                return Err(fault(format!("its factors make shape {:?}, the header says {:?}", delta.shape(), tensor.shape)));
            }
            delta.check().map_err(fault)?;
            deltas.insert(name, TensorDelta { delta, base: tensor.base, after: tensor.after });
        }
        let overlay = header.overlay.map(|overlay| read_overlay(&mut tensors, overlay)).transpose()?;
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

/// The header of a file without a label.
fn header_before_labels(header: &str) -> Result<EditHeader, String> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let damaged = |e| format!("its metadata is not an edit's: {e}");
    let Version { format_version } = serde_json::from_str(header).map_err(damaged)?;
    if format_version > LAST_BEFORE_LABELS {
        return Err(format!("is in format {format_version}, which this program does not read; update easyedit"));
    }
    serde_json::from_str(header).map_err(damaged)
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

fn matrix_tensor(matrix: &Matrix) -> ArtefactTensor<'_> {
    ArtefactTensor::of_f32(&matrix.shape(), matrix.values())
}

fn read_overlay(tensors: &mut ReadTensors, header: OverlayHeader) -> Result<Overlay> {
    let read = |name: String| {
        let matrix = read_matrix(tensors, &overlay_part(&name))?;
        Ok((name, matrix))
    };
    Ok(Overlay { data: header.data, tensors: header.tensors.into_iter().map(read).collect::<Result<_>>()? })
}

fn read_matrix(tensors: &mut ReadTensors, name: &str) -> Result<Matrix> {
    let (shape, values) = tensors.take(name)?;
    match shape[..] {
        [rows, cols] => {
            Matrix::new(rows, cols, values).ok_or_else(|| tensors.fault(format!("tensor {name} has the absurd shape {shape:?}")))
        }
        _ => Err(tensors.fault(format!("tensor {name} has {} dimensions instead of 2", shape.len()))),
    }
}

fn read_delta(tensors: &mut ReadTensors, name: &ParamName, header: &TensorHeader) -> Result<WeightDelta> {
    let mut matrix = |part: &str| read_matrix(tensors, &format!("{name}.{part}"));
    match header.kind {
        DeltaKind::LowRank => Ok(WeightDelta::LowRank { left: matrix("left")?, right: matrix("right")? }),
        DeltaKind::Dense => Ok(WeightDelta::Dense(matrix("delta")?)),
        DeltaKind::Sparse => {
            let (_, indices) = tensors.take(&format!("{name}.indices"))?;
            let (_, values) = tensors.take(&format!("{name}.values"))?;
            Ok(WeightDelta::Sparse { shape: header.shape, indices, values })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use safetensors::tensor::{Dtype, TensorView};

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

    fn from_bytes(bytes: &[u8]) -> Result<Edit, String> {
        let file = ArtefactFile::new(Path::new("x"), bytes, bytes.len() as u64);
        file.and_then(Edit::read).map_err(|e| e.to_string())
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
            prop_assert!(from_bytes(&bytes).is_err());
        }
    }

    /// The bytes of an edit file of format 1, which no checksum protects, that claims one change of `kind` and `shape`, with these tensors.
    fn claiming(kind: &str, shape: [u64; 2], tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
        let change = serde_json::json!({"kind": kind, "shape": shape, "base": "00"});
        let header = serde_json::json!({
            "format_version": 1, "easyedit_version": "0.1.0", "method": "ROME", "model": "m", "family": "llama", "seed": 0, "hparams": {},
            "requests": [], "diagnostics": null, "tensors": {"m.weight": change},
        });
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize(views, Some(HashMap::from([(KEY_BEFORE_LABELS.to_owned(), header.to_string())]))).unwrap()
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
            let message = from_bytes(&bytes).unwrap_err();
            assert!(message.contains("m.weight") && message.contains(part), "{part}: {message}");
        }
        let none = from_bytes(&factors(1 << 16, 0, 1 << 16)).unwrap();
        let (_, change) = none.deltas.first_key_value().unwrap();
        assert_eq!(change.delta.norm(), 0.0, "a change of rank 0 is none, and is not multiplied out to say so");
    }

    #[test]
    fn no_cut_and_no_flipped_bit_goes_unnoticed() {
        let delta = WeightDelta::LowRank { left: Matrix::column(vec![1.0; 4]), right: Matrix::row(vec![1.0; 3]) };
        let original = edit(vec![("a.weight", delta)]);
        let bytes = original.to_bytes().unwrap();
        assert_eq!(bytes, original.to_bytes().unwrap());
        for place in 0..bytes.len() {
            assert!(from_bytes(&bytes[..place]).is_err(), "cut at {place}");
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            // A bit of white space in the header may change nothing that is read.
            let found = from_bytes(&flipped);
            assert!(found.as_ref().is_err() || found.as_ref() == Ok(&original), "bit of byte {place}");
            let is_number = place >= bytes.len() - 4 * (4 + 3);
            assert!(!is_number || found.unwrap_err().contains("checksum"), "bit of byte {place}");
        }
    }

    #[test]
    fn newer_files_say_to_update() {
        let exchanged = |bytes: &[u8], from: &str, to: &str| {
            let place = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            [&bytes[..place], to.as_bytes(), &bytes[place + from.len()..]].concat()
        };
        let old = claiming("dense", [1, 1], &[("m.weight.delta", Dtype::F32, vec![1, 1], vec![0; 4])]);
        assert!(from_bytes(&old).is_ok());
        let message = from_bytes(&exchanged(&old, "format_version\\\":1", "format_version\\\":3")).unwrap_err();
        assert!(message.contains("format 3") && message.contains("update easyedit"), "{message}");
        let message = from_bytes(&exchanged(&edit(vec![]).to_bytes().unwrap(), "edit/3", "edit/4")).unwrap_err();
        assert!(message.contains("edit/4") && message.contains("update easyedit"), "{message}");
    }

    #[test]
    fn a_file_of_something_else_is_no_edit() {
        let other = safetensors::serialize([("a", TensorView::new(Dtype::U8, vec![1], &[1]).unwrap())], None).unwrap();
        assert!(from_bytes(&other).unwrap_err().contains("is not an easyedit edit"));
        let label = ArtefactLabel::new("value/2", &(), &()).unwrap();
        let other = EncodedArtefact::new(label, BTreeMap::new()).unwrap().to_bytes();
        assert!(from_bytes(&other).unwrap_err().contains("is \"value/2\" instead of \"edit/3\""));
    }
}
