use burn::tensor::{DType, Tensor};
use easyedit_core::{Result, tensor_values};
use rayon::prelude::*;

/// Columns of the keys that are multiplied at once with themselves and all columns to their right.
const BLOCK: usize = 192;
/// Bits behind the binary point.
const FRACTION_BITS: i32 = 64;
/// Products of a chunk stay below 2 to this power.
const LARGEST_POWER: i32 = 62;

/// The upper triangle of a sum of products kᵀk, exact in fixed point.
///
/// Entries are 128-bit integers in units of 2⁻⁶⁴. A product of a chunk, an `f32`, enters exactly if it is 2⁻⁴⁰ or larger, and rounded
/// to 2⁻⁶⁴ otherwise; it is refused from 2⁶² on, and so is a sum from 2⁶³ on. Sums of integers do not depend on their order, and the
/// triangle takes the memory of a whole matrix in `f64`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FixedSum {
    size: usize,
    /// Row after row, each from the diagonal on.
    entries: Vec<i128>,
}

/// A product or a sum is too large, or not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfRange;

impl FixedSum {
    pub(super) fn new(size: usize) -> Self {
        Self { size, entries: vec![0; Self::count(size)] }
    }

    /// Number of entries of a triangle of `size` rows.
    pub(super) fn count(size: usize) -> usize {
        size * (size + 1) / 2
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn entries(&self) -> &[i128] {
        &self.entries
    }

    pub(super) fn entries_mut(&mut self) -> &mut [i128] {
        &mut self.entries
    }

    /// Adds kᵀk of `keys: [tokens, size]`, of which only the blocks on and above the diagonal are computed.
    pub(super) fn add_products(&mut self, keys: &Tensor<2>) -> Result<Result<(), OutOfRange>> {
        let keys = keys.clone().cast(DType::F32);
        for start in (0..self.size).step_by(BLOCK) {
            let height = BLOCK.min(self.size - start);
            let left = keys.clone().narrow(1, start, height).transpose();
            let right = keys.clone().narrow(1, start, self.size - start);
            if self.add_rows(start, &tensor_values(&left.matmul(right))?).is_err() {
                return Ok(Err(OutOfRange));
            }
        }
        Ok(Ok(()))
    }

    /// Adds `block: [height, size - first]` to the rows from `first` on; its entries below the diagonal are passed over.
    fn add_rows(&mut self, first: usize, block: &[f32]) -> Result<(), OutOfRange> {
        let width = self.size - first;
        let before = Self::count(self.size) - Self::count(width);
        let mut rest = &mut self.entries[before..];
        let mut rows = Vec::with_capacity(BLOCK);
        for (offset, products) in block.chunks_exact(width).enumerate() {
            let (row, below) = rest.split_at_mut(width - offset);
            rows.push((row, &products[offset..]));
            rest = below;
        }
        let sound = rows.into_par_iter().map(|(row, products)| {
            let mut sound = true;
            for (sum, product) in row.iter_mut().zip(products) {
                let (added, overflows) = sum.overflowing_add(fixed(*product));
                *sum = added;
                sound &= !overflows & (product.abs() < (LARGEST_POWER as f32).exp2());
            }
            sound
        });
        // All rows are gone through, whichever fails.
        if sound.reduce(|| true, |a, b| a & b) { Ok(()) } else { Err(OutOfRange) }
    }

    /// The sum divided by `count`, both triangles: `[size, size]`.
    pub(super) fn mean(&self, count: u64) -> Vec<f32> {
        let unit = f64::from(-FRACTION_BITS).exp2() / count as f64;
        let mut mean = vec![0f32; self.size * self.size];
        let mut entries = self.entries.iter();
        for row in 0..self.size {
            for (column, entry) in (row..self.size).zip(&mut entries) {
                let value = (*entry as f64 * unit) as f32;
                mean[row * self.size + column] = value;
                mean[column * self.size + row] = value;
            }
        }
        mean
    }
}

/// `value` in units of 2⁻⁶⁴; any number for one that is out of range.
#[inline(always)]
fn fixed(value: f32) -> i128 {
    const MANTISSA_BITS: u32 = 23;
    const BIAS: i32 = 127 + MANTISSA_BITS as i32;
    let bits = value.to_bits();
    let exponent = ((bits >> MANTISSA_BITS) & 0xff) as i32;
    // Numbers without the leading bit are below 2⁻¹²⁶, which rounds to nothing whether they have it or not.
    let magnitude = i64::from((bits & 0x7f_ffff) | 0x80_0000);
    let mantissa = if value.is_sign_negative() { -magnitude } else { magnitude };
    let shift = exponent - BIAS + FRACTION_BITS;
    match shift {
        0..=103 => i128::from(mantissa) << shift,
        -32..0 => i128::from((mantissa + (1 << (-shift - 1))) >> -shift),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_enter_exactly() {
        for value in [0.0f32, 1.0, -1.0, 0.1, -3.7e-5, 1.0 / 1048576.0, 12_345.678, -9.0e9, 2f32.powi(61), 2f32.powi(-40) * 1.999] {
            let want = (f64::from(value) * 64f64.exp2()) as i128;
            assert_eq!(fixed(value), want, "{value}");
        }
        assert_eq!(fixed(2f32.powi(-64) * 1.6), 2, "rounded to the unit");
        assert_eq!((fixed(f32::MIN_POSITIVE), fixed(-1e-44)), (0, 0));
    }

    #[test]
    fn sums_do_not_depend_on_their_order() {
        let blocks: Vec<Vec<f32>> = (0..9).map(|i| vec![0.1 * 10f32.powi(i - 4), -0.3 * i as f32, 9.0, 1e8 / (i + 1) as f32]).collect();
        let sum = |order: &[usize]| {
            let mut sum = FixedSum::new(2);
            order.iter().for_each(|i| sum.add_rows(0, &blocks[*i]).unwrap());
            sum
        };
        let one = sum(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(one, sum(&[8, 3, 1, 0, 7, 2, 6, 5, 4]));
        assert_eq!(one.mean(3)[1], one.mean(3)[2], "symmetric");
        let exact: f64 = blocks.iter().map(|block| f64::from(block[3])).sum();
        assert_eq!(one.mean(1)[3], exact as f32);
    }

    #[test]
    fn products_are_those_of_all_pairs_of_columns() {
        let device = easyedit_core::device::select("cpu").unwrap();
        // More columns than one block has, and not a multiple of it.
        let (tokens, size) = (5, 2 * BLOCK + 7);
        let value = |t: usize, c: usize| ((t * 31 + c * 17) % 23) as f32 / 8.0 - 1.0;
        let values: Vec<f32> = (0..tokens).flat_map(|t| (0..size).map(move |c| value(t, c))).collect();
        let keys = Tensor::<2>::from_data(burn::tensor::TensorData::new(values, [tokens, size]), &device);
        let mut sum = FixedSum::new(size);
        sum.add_products(&keys).unwrap().unwrap();
        for (index, got) in sum.mean(1).into_iter().enumerate() {
            let want: f32 = (0..tokens).map(|t| value(t, index / size) * value(t, index % size)).sum();
            assert_eq!(got, want, "entry {index}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for value in [f32::NAN, f32::INFINITY, 1e30] {
            assert_eq!(FixedSum::new(1).add_rows(0, &[value]), Err(OutOfRange));
        }
        let mut sum = FixedSum::new(1);
        let largest = 61.9f32.exp2();
        assert_eq!((0..3).map(|_| sum.add_rows(0, &[largest])).collect::<Vec<_>>(), [Ok(()), Ok(()), Err(OutOfRange)]);
    }
}
