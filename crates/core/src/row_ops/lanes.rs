//! Sums and products of rows in vectors. The order of a sum follows from the row's length alone.

use pulp::Simd;

/// Σ f(aᵢ, bᵢ), where `f` is given for vectors and for numbers.
#[inline(always)]
pub(super) fn sum_of<S: Simd>(
    simd: S,
    a: &[f32],
    b: &[f32],
    vectors: impl Fn(S::f32s, S::f32s, S::f32s) -> S::f32s,
    numbers: impl Fn(f32, f32) -> f32,
) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sums = [simd.splat_f32s(0.0); 2];
    for (a, b) in a.chunks(2).zip(b.chunks(2)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = vectors(*a, *b, *sum);
        }
    }
    let whole = simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1]));
    a_rest.iter().zip(b_rest).fold(whole, |sum, (a, b)| sum + numbers(*a, *b))
}

/// Σ aᵢ bᵢ
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    sum_of(simd, a, b, |a, b, sum| simd.mul_add_f32s(a, b, sum), |a, b| a * b)
}

/// `y + factor x`, into `y`; both of a length that whole vectors fill.
#[inline(always)]
pub(super) fn add_scaled<S: Simd>(simd: S, y: &mut [f32], factor: f32, x: &[f32]) {
    let factor = simd.splat_f32s(factor);
    for (y, x) in S::as_mut_simd_f32s(y).0.iter_mut().zip(S::as_simd_f32s(x).0) {
        *y = simd.mul_add_f32s(factor, *x, *y);
    }
}

/// The products of a row with the columns of a matrix: each is one chain over `x` in its order. `y` and the matrix's rows are of a length that
/// whole vectors fill: `matrix: [x, y]`.
#[inline(always)]
pub(super) fn times_columns<S: Simd>(simd: S, x: &[f32], matrix: &[f32], y: &mut [f32]) {
    let width = y.len() / S::F32_LANES;
    let matrix = S::as_simd_f32s(matrix).0;
    let y = S::as_mut_simd_f32s(y).0;
    let mut first = 0;
    while first + 4 <= width {
        let mut sums = [simd.splat_f32s(0.0); 4];
        for (x, row) in x.iter().zip(matrix.chunks_exact(width)) {
            let x = simd.splat_f32s(*x);
            for i in 0..4 {
                sums[i] = simd.mul_add_f32s(x, row[first + i], sums[i]);
            }
        }
        y[first..first + 4].copy_from_slice(&sums);
        first += 4;
    }
    for column in first..width {
        let mut sum = simd.splat_f32s(0.0);
        for (x, row) in x.iter().zip(matrix.chunks_exact(width)) {
            sum = simd.mul_add_f32s(simd.splat_f32s(*x), row[column], sum);
        }
        y[column] = sum;
    }
}
