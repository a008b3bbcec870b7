use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use safetensors::tensor::{Metadata, TensorInfo};
use sha2::Digest;

use super::file::LONGEST_HEADER;
use super::tensor::announce;
use super::{ArtefactLabel, ArtefactTensor};

/// An artefact that is ready to be written: its header, and the tensors that follow it. The same artefact gives the same bytes.
#[derive(Debug)]
pub(crate) struct EncodedArtefact<'a> {
    /// All bytes before the tensors.
    head: Vec<u8>,
    tensors: Vec<ArtefactTensor<'a>>,
}

impl<'a> EncodedArtefact<'a> {
    /// Computes the checksum and the header. The tensors are put into the order of safetensors: wider types first, then by name.
    ///
    /// # Errors
    ///
    /// If a tensor's shape does not fit its numbers, or the header is longer than readers accept.
    pub(crate) fn new(label: ArtefactLabel, tensors: BTreeMap<String, ArtefactTensor<'a>>) -> Result<Self, String> {
        let mut tensors: Vec<(String, ArtefactTensor<'a>)> = tensors.into_iter().collect();
        tensors.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype()));
        let mut checksum = label.checksum();
        let mut infos = Vec::with_capacity(tensors.len());
        let mut end = 0;
        for (name, tensor) in &tensors {
            let (dtype, shape, start) = (tensor.dtype(), tensor.shape().to_vec(), end);
            end += tensor.length();
            announce(&mut checksum, name, dtype, &shape);
            let hashed = tensor.each_part(&mut |part| {
                checksum.update(part);
                Ok(())
            });
            hashed.map_err(|e| e.to_string())?;
            infos.push((name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) }));
        }
        let cannot = |e: &dyn std::fmt::Display| format!("cannot be written as safetensors: {e}");
        let entry = label.sealed(checksum).map_err(|e| cannot(&e))?;
        let metadata = Metadata::new(Some(HashMap::from([entry])), infos).map_err(|e| cannot(&e))?;
        let mut json = serde_json::to_vec(&metadata).map_err(|e| cannot(&e))?;
        json.resize(json.len().next_multiple_of(8), b' ');
        let length = json.len() as u64;
        if length > LONGEST_HEADER {
            return Err(cannot(&format!("its header would have {length} bytes, and readers accept {LONGEST_HEADER}; use fewer requests")));
        }
        let head = [&length.to_le_bytes()[..], &json].concat();
        Ok(Self { head, tensors: tensors.into_iter().map(|(_, tensor)| tensor).collect() })
    }

    /// Writes the file's bytes.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub(crate) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.head)?;
        self.tensors.iter().try_for_each(|tensor| tensor.each_part(&mut |part| out.write_all(part)))
    }

    /// The file's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.head.len() + self.tensors.iter().map(ArtefactTensor::length).sum::<usize>());
        bytes.extend_from_slice(&self.head);
        for tensor in &self.tensors {
            // Writing into memory does not fail.
            let _ = tensor.each_part(&mut |part| bytes.write_all(part));
        }
        bytes
    }
}
