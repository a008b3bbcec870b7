use std::ops::Range;

use burn::tensor::Element;
use bytemuck::Pod;
use half::{bf16, f16};
use pulp::Simd;

use super::matrix::Matrix;
use super::panel::Panel;
use super::times_transposed::{multiply, multiply_widened};

/// A type that weights are stored in. Kernels read `f32` where they lie; others they widen, a bit at a time.
pub(super) trait Stored: Element + Pod {
    /// The number as `f32`, exactly; finite numbers only.
    fn widened(self) -> f32;

    /// Makes ready what [`in_tile`](Self::in_tile) gives: writes a part of the weight to `room`, row after row.
    #[inline(always)]
    fn widen_tile(weight: Matrix<'_, Self>, rows: Range<usize>, columns: Range<usize>, room: &mut [f32]) {
        for (row, room) in rows.zip(room.chunks_exact_mut(columns.len())) {
            widen(&weight.row(row)[columns.clone()], room);
        }
    }

    /// Row `index` of the tile, which is row `row` of the weight.
    #[inline(always)]
    fn in_tile<'r>(_: Matrix<'r, Self>, _row: usize, columns: Range<usize>, room: &'r [f32], index: usize) -> &'r [f32] {
        &room[index * columns.len()..][..columns.len()]
    }

    /// The products of a panel with the first rows of a weight: see [`multiply`].
    #[inline(always)]
    fn multiply<S: Simd, const VECTORS: usize, const WEIGHTS: usize>(
        simd: S,
        panel: &Panel,
        weight: Matrix<'_, Self>,
        products: &mut [f32],
    ) {
        multiply_widened::<S, Self, VECTORS, WEIGHTS>(simd, panel, weight, products);
    }
}

impl Stored for f32 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }

    #[inline(always)]
    fn widen_tile(_: Matrix<'_, Self>, _: Range<usize>, _: Range<usize>, _: &mut [f32]) {}

    #[inline(always)]
    fn in_tile<'r>(weight: Matrix<'r, Self>, row: usize, columns: Range<usize>, _: &'r [f32], _: usize) -> &'r [f32] {
        &weight.row(row)[columns.start..][..columns.len()]
    }

    #[inline(always)]
    fn multiply<S: Simd, const VECTORS: usize, const WEIGHTS: usize>(
        simd: S,
        panel: &Panel,
        weight: Matrix<'_, Self>,
        products: &mut [f32],
    ) {
        multiply::<S, VECTORS, WEIGHTS>(simd, panel, weight, products);
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        /// What the exponents of the two types are apart: 2^112.
        const APART: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.to_bits());
        let size = f32::from_bits((bits & 0x7fff) << 13) * APART;
        f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
    }
}

/// Writes numbers as `f32`. Inlined into kernels, where the compiler makes vectors of it.
#[inline(always)]
pub(super) fn widen<T: Stored>(numbers: &[T], room: &mut [f32]) {
    room.iter_mut().zip(numbers).for_each(|(to, number)| *to = number.widened());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_number_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (half, upper) = (f16::from_bits(bits), bf16::from_bits(bits));
            if half.is_finite() {
                assert_eq!(half.widened().to_bits(), half.to_f32().to_bits());
            }
            if upper.is_finite() {
                assert_eq!(upper.widened().to_bits(), upper.to_f32().to_bits());
            }
        }
    }
}
