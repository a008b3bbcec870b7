//! Tensors read from their file by position, in pieces, straight into the memory they are going to stay in.
//!
//! A mapped file would be simpler, but its pages count as the program's memory: a model read from a mapping takes twice its size.

use std::fs::File;
use std::io;

use bytemuck::Pod;
use half::{bf16, f16};
use rayon::prelude::*;

/// Numbers that one task reads and converts at a time: small enough to stay in a core's cache until they are checked.
const PIECE: usize = 1 << 14;

/// How numbers lie in a file: so many bytes for a block of so many numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    pub(crate) bytes: usize,
    pub(crate) numbers: usize,
}

/// Reads `values`, which lie in `blocks` from byte `start` of `file` on, on all cores; `convert` turns the bytes of some blocks into numbers.
/// Returns whether all numbers are finite.
///
/// # Errors
///
/// If the file cannot be read, or ends before the last block.
pub(crate) fn read_blocks(
    file: &File,
    start: u64,
    blocks: Blocks,
    values: &mut [f32],
    convert: impl Fn(&[u8], &mut [f32]) + Sync,
) -> io::Result<bool> {
    let at_once = (PIECE / blocks.numbers).max(1);
    let piece = |buffer: &mut Vec<u8>, (index, values): (usize, &mut [f32])| -> io::Result<bool> {
        buffer.resize(values.len() / blocks.numbers * blocks.bytes, 0);
        read_at(file, buffer, start.saturating_add((index * at_once * blocks.bytes) as u64))?;
        convert(buffer, values);
        Ok(values.iter().fold(true, |finite, value| finite & value.is_finite()))
    };
    let pieces = values.par_chunks_mut(at_once * blocks.numbers).enumerate();
    pieces.map_init(Vec::new, piece).try_reduce(|| true, |a, b| Ok(a & b))
}

/// A number that files hold in little-endian bytes.
pub(crate) trait Number: Pod + Send + Sync {
    /// The number that the bytes of this one are in a file.
    fn as_read(self) -> Self;
    fn is_finite(self) -> bool;
}

impl Number for f32 {
    fn as_read(self) -> Self {
        Self::from_bits(u32::from_le(self.to_bits()))
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Number for f16 {
    fn as_read(self) -> Self {
        Self::from_bits(u16::from_le(self.to_bits()))
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Number for bf16 {
    fn as_read(self) -> Self {
        Self::from_bits(u16::from_le(self.to_bits()))
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// Reads `values`, which lie in `file` as little-endian numbers from byte `start` on, without another copy. Otherwise as [`read_blocks`].
///
/// # Errors
///
/// As [`read_blocks`].
pub(crate) fn read_numbers<T: Number>(file: &File, start: u64, values: &mut [T]) -> io::Result<bool> {
    let piece = |(index, values): (usize, &mut [T])| -> io::Result<bool> {
        read_at(file, bytemuck::cast_slice_mut(values), start.saturating_add((index * PIECE * size_of::<T>()) as u64))?;
        if cfg!(target_endian = "big") {
            values.iter_mut().for_each(|value| *value = value.as_read());
        }
        Ok(values.iter().fold(true, |finite, value| finite & Number::is_finite(*value)))
    };
    values.par_chunks_mut(PIECE).enumerate().map(piece).try_reduce(|| true, |a, b| Ok(a & b))
}

/// Fills `buffer` with the bytes of `file` from `start` on. The file's own position does not matter.
#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, start)
}

/// Fills `buffer` with the bytes of `file` from `start` on. The file's own position does not matter.
#[cfg(windows)]
fn read_at(file: &File, mut buffer: &mut [u8], mut start: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, buffer, start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[read..];
        start += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn pieces_come_in_order_and_are_checked() {
        let numbers: Vec<f32> = (0..3 * PIECE + 7).map(|i| i as f32).collect();
        let bytes: Vec<u8> = [9; 5].into_iter().chain(numbers.iter().flat_map(|v| v.to_le_bytes())).collect();
        let file = file_of(&bytes);
        let mut values = vec![0.0; numbers.len()];
        assert!(read_numbers(&file, 5, &mut values).unwrap());
        assert_eq!(values, numbers);
        // Blocks of two bytes for one number, and of six for three.
        let halves: Vec<u8> = (0..3 * PIECE as u32).flat_map(|i| (i as u16).to_le_bytes()).collect();
        let convert = |bytes: &[u8], values: &mut [f32]| {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from(u16::from_le_bytes(*bytes));
            }
        };
        for numbers in [1, 3] {
            let mut values = vec![0.0; 3 * PIECE];
            assert!(read_blocks(&file_of(&halves), 0, Blocks { bytes: 2 * numbers, numbers }, &mut values, convert).unwrap());
            assert!(values.iter().enumerate().all(|(i, v)| *v == f32::from(i as u16)));
        }
        let mut damaged = numbers.clone();
        damaged[2 * PIECE + 1] = f32::NAN;
        let bytes: Vec<u8> = damaged.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert!(!read_numbers(&file_of(&bytes), 0, &mut values).unwrap());
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let file = file_of(&[0; 11]);
        assert!(read_numbers(&file, 0, &mut [0.0; 2]).unwrap());
        for start in [4, 11, 100, u64::MAX] {
            assert!(read_numbers(&file, start, &mut [0.0; 2]).is_err(), "{start}");
        }
        assert!(read_blocks(&file, 0, Blocks { bytes: 2, numbers: 1 }, &mut [0.0; 6], |_, _| {}).is_err());
    }
}
