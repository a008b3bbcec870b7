use easyedit_core::Matrix;

/// Mean of the first `count` rows: contexts weighing alike.
pub fn mean_row(matrix: &Matrix, count: usize) -> Vec<f64> {
    weighted_row(matrix, count, 1.0 / count as f64)
}

/// Mean of the first `count` rows in which the first, the bare prompt's, weighs as much as all others together.
///
/// A subject that begins the prompt is the first token of the text, whose key is unlike any other in most models; among equals it
/// would be lost, and the bare prompt would keep its old answer. MEMIT averages its contexts in the same way.
pub fn half_bare_row(matrix: &Matrix, count: usize) -> Vec<f64> {
    weighted_row(matrix, count, if count > 1 { 0.5 } else { 1.0 })
}

fn weighted_row(matrix: &Matrix, count: usize, first: f64) -> Vec<f64> {
    let [_, width] = matrix.shape();
    let other = (1.0 - first) / count.saturating_sub(1).max(1) as f64;
    let mut mean = vec![0.0; width];
    for (index, row) in matrix.values().chunks_exact(width.max(1)).take(count).enumerate() {
        let weight = if index == 0 { first } else { other };
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) * weight);
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_the_templates_alone() {
        let m = Matrix::new(3, 2, vec![1.0, 2.0, 3.0, 4.0, 100.0, 100.0]).unwrap();
        assert_eq!(mean_row(&m, 2), [2.0, 3.0]);
        let m = Matrix::new(4, 1, vec![8.0, 1.0, 3.0, 100.0]).unwrap();
        assert_eq!(half_bare_row(&m, 3), [5.0]);
        assert_eq!(half_bare_row(&m, 1), [8.0]);
    }
}
