//! Writers of small valid files, for the seeds.

use std::collections::HashMap;
use std::io::{Cursor, Write};

use safetensors::tensor::{Dtype, TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::small_model::Tensors;

/// Safetensors of `f32`, or narrower numbers.
pub(crate) fn safetensors(tensors: &Tensors, dtype: Dtype, metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    let narrowed: Vec<(&String, &Vec<usize>, Vec<u8>)> =
        tensors.iter().map(|(name, (shape, values))| (name, shape, narrow(values, dtype))).collect();
    let views = narrowed.iter().map(|(name, shape, bytes)| (*name, TensorView::new(dtype, (*shape).clone(), bytes).unwrap()));
    safetensors::serialize(views, metadata).unwrap()
}

/// Little-endian numbers of a type.
fn narrow(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => bytemuck::cast_slice(values).to_vec(),
    }
}

/// A zip archive of stored or deflated files.
pub(crate) fn archive(files: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// What `torch.save` writes: a zip with a pickle of protocol 2, and a storage of `f32` for every tensor.
pub(crate) fn pytorch(tensors: &Tensors) -> Vec<u8> {
    let names: Vec<String> = (0..tensors.len()).map(|key| format!("archive/data/{key}")).collect();
    let storages: Vec<Vec<u8>> = tensors.values().map(|(_, values)| narrow(values, Dtype::F32)).collect();
    let pickle = pickle(tensors);
    let mut files: Vec<(&str, &[u8])> = vec![("archive/data.pkl", &pickle), ("archive/byteorder", b"little")];
    files.extend(names.iter().map(String::as_str).zip(storages.iter().map(Vec::as_slice)));
    files.push(("archive/version", b"3\n"));
    archive(&files, CompressionMethod::Stored)
}

fn pickle(tensors: &Tensors) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.bytes());
    };
    let int = |out: &mut Vec<u8>, value: usize| {
        out.push(b'J');
        out.extend((value as i32).to_le_bytes());
    };
    for (key, (name, (shape, values))) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        int(&mut out, values.len());
        out.extend(b"tQ");
        int(&mut out, 0);
        let strides: Vec<usize> = (0..shape.len()).map(|dim| shape.iter().skip(dim + 1).product()).collect();
        for dims in [shape, &strides] {
            out.push(b'(');
            dims.iter().for_each(|dim| int(&mut out, *dim));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

/// A GGUF file.
#[derive(Default)]
pub(crate) struct Gguf {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

impl Gguf {
    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push([&counted(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, &counted(value))
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.pair(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn texts(self, key: &str, values: &[&str]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| counted(value)).collect();
        self.pair(key, 9, &[&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &bytes].concat())
    }

    pub(crate) fn numbers(self, key: &str, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.pair(key, 9, &[&6u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &bytes].concat())
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.pair(key, 9, &[&5u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &bytes].concat())
    }

    /// A tensor of row-major `shape`, of the type with the number `kind`.
    pub(crate) fn tensor(mut self, name: &str, shape: &[u64], kind: u32, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let dims: Vec<u8> = shape.iter().rev().flat_map(|dim| dim.to_le_bytes()).collect();
        let (count, offset) = ((shape.len() as u32).to_le_bytes(), (self.data.len() as u64).to_le_bytes());
        self.tensors.push([&counted(name)[..], &count, &dims, &kind.to_le_bytes(), &offset].concat());
        self.data.extend_from_slice(data);
        self
    }

    pub(crate) fn f32s(self, name: &str, shape: &[u64]) -> Self {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: u64| (i % 7) as f32 * 0.2 - 0.5).collect();
        self.tensor(name, shape, 0, bytemuck::cast_slice(&values))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A piece of a SentencePiece vocabulary: its text, score and kind.
pub(crate) type Piece<'a> = (&'a str, f32, u8);

/// A SentencePiece model, in protobuf; `trainer` and `normalizer` are its specs as they are in the file.
pub(crate) fn sentencepiece(pieces: &[Piece<'_>], trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (text, score, kind) in pieces {
        let piece = [&field(1, text.as_bytes())[..], &[0x15], &score.to_le_bytes(), &[0x18, *kind]].concat();
        out.extend(field(1, &piece));
    }
    out.extend(field(2, trainer));
    out.extend(field(3, normalizer));
    out
}

/// A map of characters as SentencePiece has it: `A` becomes `a`. A double-array trie whose root leads to the block at 256, and a text.
pub(crate) fn charsmap() -> Vec<u8> {
    let mut units = vec![0u32; 512];
    let child = 256 ^ u32::from(b'A');
    units[0] = 256 << 10;
    units[child as usize] = u32::from(b'A') | 1 << 8 | (child ^ 2) << 10;
    [&(4 * units.len() as u32).to_le_bytes()[..], bytemuck::cast_slice(&units), b"a\0"].concat()
}

/// A field of bytes of a protobuf message.
pub(crate) fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}
