use std::ops::Range;

use burn::tensor::Element;
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};

use super::matrix::{Matrix, Numbers};

/// Numbers that are widened at once: they stay in the second cache until all rows have passed over them.
const AT_ONCE: usize = 1 << 16;

/// Cuts the rows `0..rows` of a matrix of this width into pieces that are widened one at a time, each of a multiple of `unit` rows.
pub(super) fn pieces(rows: usize, width: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let at_once = (AT_ONCE / width.max(1) / unit * unit).max(unit);
    (0..rows).step_by(at_once).map(move |first| first..(first + at_once).min(rows))
}

/// Writes the numbers as `f32`, row after row, over those of `buffer`; the matrix that they are.
pub(super) fn widen<'b>(numbers: Numbers<'_>, buffer: &'b mut Vec<f32>) -> Matrix<'b> {
    buffer.resize(numbers.rows() * numbers.width(), 0.0);
    match numbers {
        Numbers::F32(matrix) => each_row(matrix, buffer, |row, to| to.copy_from_slice(row)),
        Numbers::F16(matrix) => each_row(matrix, buffer, |row: &[f16], to| row.convert_to_f32_slice(to)),
        Numbers::Bf16(matrix) => each_row(matrix, buffer, |row: &[bf16], to| Arch::new().dispatch(UpperHalves { row, to })),
    }
    Matrix::contiguous(buffer, numbers.width())
}

fn each_row<T: Element + Pod>(matrix: Matrix<'_, T>, buffer: &mut [f32], convert: impl Fn(&[T], &mut [f32])) {
    buffer.chunks_exact_mut(matrix.width()).enumerate().for_each(|(row, to)| convert(matrix.row(row), to));
}

/// Numbers that are the upper halves of `f32`.
struct UpperHalves<'a> {
    row: &'a [bf16],
    to: &'a mut [f32],
}

impl WithSimd for UpperHalves<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        // The compiler turns this into the vectors of `S`.
        self.to.iter_mut().zip(self.row).for_each(|(to, half)| *to = f32::from_bits(u32::from(half.to_bits()) << 16));
    }
}
