use std::io;

use half::f16;
use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};

/// Bytes of a tensor that are read, written and hashed at once; a multiple of the size of every number.
pub(super) const PART: usize = 1 << 18;

/// A tensor as it is written: numbers that are lent, row by row.
#[derive(Clone, Debug)]
pub struct ArtefactTensor<'a> {
    shape: Vec<usize>,
    numbers: Lent<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Lent<'a> {
    F32(&'a [f32]),
    /// Rounded to the nearest as they are written.
    F16(&'a [f32]),
    F64(&'a [f64]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    I128(&'a [i128]),
    U8(&'a [u8]),
}

impl<'a> ArtefactTensor<'a> {
    /// 32-bit floating-point numbers.
    pub fn of_f32(shape: &[usize], values: &'a [f32]) -> Self {
        Self { shape: shape.to_vec(), numbers: Lent::F32(values) }
    }

    /// 16-bit floating-point numbers, the nearest to `values`.
    pub fn of_f16(shape: &[usize], values: &'a [f32]) -> Self {
        Self { shape: shape.to_vec(), numbers: Lent::F16(values) }
    }

    /// A vector of 64-bit floating-point numbers.
    pub fn of_f64(values: &'a [f64]) -> Self {
        Self { shape: vec![values.len()], numbers: Lent::F64(values) }
    }

    /// A vector of 32-bit whole numbers.
    pub fn of_u32(values: &'a [u32]) -> Self {
        Self { shape: vec![values.len()], numbers: Lent::U32(values) }
    }

    /// A vector of 64-bit whole numbers.
    pub fn of_u64(values: &'a [u64]) -> Self {
        Self { shape: vec![values.len()], numbers: Lent::U64(values) }
    }

    /// 128-bit integers, as I64 `[values, 2]`: the low half of each first.
    pub fn of_i128(values: &'a [i128]) -> Self {
        Self { shape: vec![values.len(), 2], numbers: Lent::I128(values) }
    }

    /// Text.
    pub fn of_bytes(bytes: &'a [u8]) -> Self {
        Self { shape: vec![bytes.len()], numbers: Lent::U8(bytes) }
    }

    pub(super) fn dtype(&self) -> Dtype {
        match self.numbers {
            Lent::F32(_) => Dtype::F32,
            Lent::F16(_) => Dtype::F16,
            Lent::F64(_) => Dtype::F64,
            Lent::U32(_) => Dtype::U32,
            Lent::U64(_) => Dtype::U64,
            Lent::I128(_) => Dtype::I64,
            Lent::U8(_) => Dtype::U8,
        }
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of bytes.
    pub(super) fn length(&self) -> usize {
        match self.numbers {
            Lent::F32(values) => size_of_val(values),
            Lent::F16(values) => values.len() * size_of::<f16>(),
            Lent::F64(values) => size_of_val(values),
            Lent::U32(values) => size_of_val(values),
            Lent::U64(values) => size_of_val(values),
            Lent::I128(values) => size_of_val(values),
            Lent::U8(values) => size_of_val(values),
        }
    }

    /// Hands over the little-endian bytes in parts.
    pub(super) fn each_part(&self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self.numbers {
            Lent::F32(values) => each_part(values, f32::to_le_bytes, take),
            Lent::F16(values) => each_part(values, |value| f16::from_f32(value).to_le_bytes(), take),
            Lent::F64(values) => each_part(values, f64::to_le_bytes, take),
            Lent::U32(values) => each_part(values, u32::to_le_bytes, take),
            Lent::U64(values) => each_part(values, u64::to_le_bytes, take),
            Lent::I128(values) => each_part(values, i128::to_le_bytes, take),
            Lent::U8(values) => values.chunks(PART).try_for_each(take),
        }
    }
}

fn each_part<T: Copy, const N: usize>(
    values: &[T],
    to_bytes: impl Fn(T) -> [u8; N],
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(PART.min(values.len() * N));
    for values in values.chunks(PART / N) {
        bytes.clear();
        values.iter().for_each(|value| bytes.extend_from_slice(&to_bytes(*value)));
        take(&bytes)?;
    }
    Ok(())
}

/// Announces a tensor to a checksum; its bytes follow.
pub(super) fn announce(checksum: &mut Sha256, name: &str, dtype: Dtype, shape: &[usize]) {
    checksum.update(format!("{}:{name}:{dtype:?}:{shape:?};", name.len()));
}
