use std::array::from_fn;

use pulp::{Simd, WithSimd};

use super::matrix::Matrix;
use super::panel::Panel;
use super::prefetch::{LINE, prefetch};
use super::stored::{Stored, widen};

/// Rows of the weight whose products are kept before they are written, so that whole lines of the result are: a multiple of how many
/// are multiplied at once, 6 or 8.
const KEPT: usize = 48;

/// `x Wᵀ`: of `x: [rows, in]` and `weight: [out, in]`, `[rows, out]`.
pub(super) struct TimesTransposed<'a, 'y, T> {
    pub(super) x: &'a [&'a [f32]],
    pub(super) weight: Matrix<'a, T>,
    pub(super) y: &'a mut [&'y mut [f32]],
}

impl<T: Stored> WithSimd for TimesTransposed<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, weight, y } = self;
        // As many vectors, and rows of the weight at once, as leave room in the registers for their products.
        let many_registers = S::REGISTER_COUNT >= 32;
        let most = if many_registers { 3 } else { 2 };
        let vectors = x.len().div_ceil(S::F32_LANES);
        let count = vectors.div_ceil(most);
        let bound = |panel: usize| vectors * panel / count;
        let panels: Vec<(usize, Panel)> = (0..count)
            .map(|panel| (bound(panel), bound(panel + 1) - bound(panel)))
            .map(|(first, vectors)| (vectors, Panel::new(x, first * S::F32_LANES, vectors * S::F32_LANES)))
            .collect();
        let mut products = vec![0.0; KEPT * most * S::F32_LANES];
        for first in (0..weight.rows()).step_by(KEPT) {
            let rows = first..(first + KEPT).min(weight.rows());
            for (vectors, panel) in &panels {
                let left = weight.of_rows(first..weight.rows());
                match (many_registers, vectors) {
                    (true, 1) => T::multiply::<S, 1, 8>(simd, panel, left, &mut products),
                    (true, 2) => T::multiply::<S, 2, 8>(simd, panel, left, &mut products),
                    (true, _) => T::multiply::<S, 3, 8>(simd, panel, left, &mut products),
                    (false, 1) => T::multiply::<S, 1, 6>(simd, panel, left, &mut products),
                    (false, _) => T::multiply::<S, 2, 6>(simd, panel, left, &mut products),
                }
                for row in 0..panel.rows {
                    let y = &mut y[panel.first + row][rows.clone()];
                    y.iter_mut().zip(products.chunks_exact(panel.lanes)).for_each(|(y, products)| *y = products[row]);
                }
            }
        }
    }
}

/// The products of a panel with the first rows of the weight, [`KEPT`] of them or as many as there are: `[rows of the weight, lanes]`.
#[inline(always)]
pub(super) fn multiply<S: Simd, const VECTORS: usize, const WEIGHTS: usize>(
    simd: S,
    panel: &Panel,
    weight: Matrix<'_>,
    products: &mut [f32],
) {
    // Beyond the end it is the last row again.
    let row = |row: usize| weight.row(row.min(weight.rows() - 1));
    let products = S::as_mut_simd_f32s(products).0;
    for (first, products) in (0..weight.rows()).step_by(WEIGHTS).zip(products.chunks_exact_mut(WEIGHTS * VECTORS)).take(KEPT / WEIGHTS) {
        let rows: [&[f32]; WEIGHTS] = from_fn(|i| row(first + i));
        let ahead: [&[f32]; WEIGHTS] = from_fn(|i| row(first + WEIGHTS + i));
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; WEIGHTS];
        for (line, x) in S::as_simd_f32s(&panel.values).0.chunks(VECTORS * LINE).enumerate() {
            let numbers = line * LINE..line * LINE + x.len() / VECTORS;
            let weights: [&[f32]; WEIGHTS] = from_fn(|i| &rows[i][numbers.clone()]);
            for row in ahead {
                prefetch(&row[numbers.start]);
            }
            for (k, x) in x.chunks_exact(VECTORS).enumerate() {
                for i in 0..WEIGHTS {
                    let weight = simd.splat_f32s(weights[i][k]);
                    for vector in 0..VECTORS {
                        sums[i][vector] = simd.mul_add_f32s(weight, x[vector], sums[i][vector]);
                    }
                }
            }
        }
        // Number by number: a slice of the sums would have them in memory instead of registers.
        for i in 0..WEIGHTS {
            for vector in 0..VECTORS {
                products[i * VECTORS + vector] = sums[i][vector];
            }
        }
    }
}

/// As [`multiply`], of numbers that are widened a line of each row at a time. It is a function of its own because one for both types made products
/// of one row of `f32` slower by an eighth.
#[inline(always)]
pub(super) fn multiply_widened<S: Simd, T: Stored, const VECTORS: usize, const WEIGHTS: usize>(
    simd: S,
    panel: &Panel,
    weight: Matrix<'_, T>,
    products: &mut [f32],
) {
    // Beyond the end it is the last row again.
    let row = |row: usize| weight.row(row.min(weight.rows() - 1));
    let products = S::as_mut_simd_f32s(products).0;
    let mut room = [[0f32; LINE]; WEIGHTS];
    for (first, products) in (0..weight.rows()).step_by(WEIGHTS).zip(products.chunks_exact_mut(WEIGHTS * VECTORS)).take(KEPT / WEIGHTS) {
        let rows: [&[T]; WEIGHTS] = from_fn(|i| row(first + i));
        let ahead: [&[T]; WEIGHTS] = from_fn(|i| row(first + WEIGHTS + i));
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; WEIGHTS];
        for (line, x) in S::as_simd_f32s(&panel.values).0.chunks(VECTORS * LINE).enumerate() {
            let numbers = line * LINE..line * LINE + x.len() / VECTORS;
            for (row, room) in rows.iter().zip(&mut room) {
                // A whole line is a number of vectors that the compiler knows.
                match row[numbers.clone()].first_chunk::<LINE>() {
                    Some(line) => widen(line, room),
                    None => widen(&row[numbers.clone()], room),
                }
            }
            for row in ahead {
                prefetch(&row[numbers.start]);
            }
            for (k, x) in x.chunks_exact(VECTORS).enumerate() {
                for i in 0..WEIGHTS {
                    let weight = simd.splat_f32s(room[i][k]);
                    for vector in 0..VECTORS {
                        sums[i][vector] = simd.mul_add_f32s(weight, x[vector], sums[i][vector]);
                    }
                }
            }
        }
        for i in 0..WEIGHTS {
            for vector in 0..VECTORS {
                products[i * VECTORS + vector] = sums[i][vector];
            }
        }
    }
}
