//! The term that keeps AdaLoRA's factors near orthonormal.

/// ‖F Fᵀ − I‖ of a factor of `rank` vectors (Frobenius), and its gradient; `vectors` holds them one behind the other.
///
/// # Source
///
/// Zhang et al. 2023, equation 4; without the square, as the PEFT library has it. At an orthonormal factor, where the norm has no
/// derivative, the gradient is 0.
pub(crate) fn orthogonality(vectors: &[f64], rank: usize) -> (f64, Vec<f64>) {
    let width = vectors.len() / rank.max(1);
    let vector = |i: usize| &vectors[i * width..(i + 1) * width];
    let mut gram = vec![0f64; rank * rank];
    for i in 0..rank {
        for j in 0..=i {
            let product: f64 = vector(i).iter().zip(vector(j)).map(|(a, b)| a * b).sum();
            let entry = product - f64::from(u8::from(i == j));
            (gram[i * rank + j], gram[j * rank + i]) = (entry, entry);
        }
    }
    let norm = gram.iter().map(|g| g * g).sum::<f64>().sqrt();
    let mut gradient = vec![0f64; vectors.len()];
    if norm > 1e-12 {
        for i in 0..rank {
            let row = &mut gradient[i * width..(i + 1) * width];
            for j in 0..rank {
                let factor = 2.0 * gram[i * rank + j] / norm;
                row.iter_mut().zip(vector(j)).for_each(|(g, v)| *g += factor * v);
            }
        }
    }
    (norm, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zero_for_orthonormal_vectors_alone() {
        let (norm, gradient) = orthogonality(&[0.6, 0.8, 0.0, -0.8, 0.6, 0.0], 2);
        assert!(norm < 1e-12 && gradient.iter().all(|g| *g == 0.0));
        assert!((orthogonality(&[1.0, 0.0, 1.0, 0.0], 2).0 - 2f64.sqrt()).abs() < 1e-12);
        assert!((orthogonality(&[2.0, 0.0], 1).0 - 3.0).abs() < 1e-12);
    }

    #[test]
    fn its_gradient_is_the_slope() {
        let vectors = [0.3, -0.2, 0.9, 0.5, 0.1, -0.4];
        let (_, gradient) = orthogonality(&vectors, 2);
        for (i, gradient) in gradient.iter().enumerate() {
            let at = |step: f64| {
                let mut moved = vectors;
                moved[i] += step;
                orthogonality(&moved, 2).0
            };
            let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((slope - gradient).abs() < 1e-6, "{slope} {gradient}");
        }
    }
}
