//! Writes files as `torch.save` does: a zip with a pickle of protocol 2 and one entry per storage.
#![allow(dead_code, unreachable_pub)]

use std::io::{Cursor, Write};
use std::path::Path;

/// The numbers several tensors may share.
pub struct Storage {
    /// PyTorch's class, e.g. `HalfStorage`.
    pub class: &'static str,
    /// Little-endian.
    pub bytes: Vec<u8>,
}

/// A view into a storage.
#[derive(Clone)]
pub struct View {
    pub name: String,
    /// Index of its storage.
    pub storage: usize,
    /// In numbers.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// A tensor for itself: name, type as safetensors call it, shape, bytes.
pub type Whole<'a> = (&'a str, &'a str, &'a [usize], &'a [u8]);

fn class(dtype: &str) -> (&'static str, usize) {
    match dtype {
        "F32" => ("FloatStorage", 4),
        "F16" => ("HalfStorage", 2),
        "BF16" => ("BFloat16Storage", 2),
        "F64" => ("DoubleStorage", 8),
        "I64" => ("LongStorage", 8),
        "BOOL" => ("BoolStorage", 1),
        other => panic!("no storage for {other}"),
    }
}

/// The strides of a row-major tensor.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|dim| shape[dim + 1..].iter().product()).collect()
}

/// A file in which every tensor has its own storage.
pub fn bin(tensors: &[Whole<'_>]) -> Vec<u8> {
    let storages: Vec<Storage> =
        tensors.iter().map(|(_, dtype, _, bytes)| Storage { class: class(dtype).0, bytes: bytes.to_vec() }).collect();
    let views: Vec<View> = tensors
        .iter()
        .enumerate()
        .map(|(storage, (name, _, shape, _))| View {
            name: (*name).to_owned(),
            storage,
            offset: 0,
            shape: shape.to_vec(),
            stride: row_major(shape),
        })
        .collect();
    archive(&state_dict(&storages, &views), &storages)
}

/// The zip around a pickle and its storages.
pub fn archive(pickle: &[u8], storages: &[Storage]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut put = |name: String, bytes: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    put("archive/data.pkl".into(), pickle);
    put("archive/byteorder".into(), b"little");
    for (key, storage) in storages.iter().enumerate() {
        put(format!("archive/data/{key}"), &storage.bytes);
    }
    put("archive/version".into(), b"3\n");
    zip.finish().unwrap().into_inner()
}

/// The pickle of an `OrderedDict` of tensors.
pub fn state_dict(storages: &[Storage], views: &[View]) -> Vec<u8> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for view in views {
        text(&mut pickle, &view.name);
        tensor(&mut pickle, storages, view);
    }
    pickle.extend(b"u.");
    pickle
}

/// Appends `torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, False, OrderedDict())`.
pub fn tensor(pickle: &mut Vec<u8>, storages: &[Storage], view: &View) {
    let storage = &storages[view.storage];
    let size = ["F32", "F16", "BF16", "F64", "I64", "BOOL"].map(class).iter().find(|(name, _)| *name == storage.class).unwrap().1;
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend(format!("ctorch\n{}\n", storage.class).bytes());
    text(pickle, &view.storage.to_string());
    text(pickle, "cpu");
    int(pickle, storage.bytes.len() / size);
    pickle.extend(b"tQ");
    int(pickle, view.offset);
    for dims in [&view.shape, &view.stride] {
        pickle.push(b'(');
        dims.iter().for_each(|dim| int(pickle, *dim));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// Appends a string.
pub fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.bytes());
}

fn int(pickle: &mut Vec<u8>, value: usize) {
    pickle.push(b'J');
    pickle.extend(i32::try_from(value).unwrap().to_le_bytes());
}

/// Writes a file.
pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}
