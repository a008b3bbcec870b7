use std::ops::Range;

use rayon::prelude::*;

/// Multiplications that pay for handing a part to another core.
const WORTH_A_TASK: usize = 1 << 20;

/// A matrix of `rows` rows and `columns` columns, of which `part` makes a range of columns (`[rows, range]`, row by row), on all cores
/// if the parts are large enough; `depth` multiplications make a number. Ranges begin at multiples of `unit`.
pub(super) fn in_parts(rows: usize, columns: usize, unit: usize, depth: usize, part: impl Fn(Range<usize>) -> Vec<f32> + Sync) -> Vec<f32> {
    let units = columns.div_ceil(unit);
    let tasks = rayon::current_num_threads().min(rows * columns * depth / WORTH_A_TASK).min(units);
    if tasks <= 1 {
        return part(0..columns);
    }
    let ranges: Vec<Range<usize>> =
        (0..tasks).map(|task| units * task / tasks * unit..(units * (task + 1) / tasks * unit).min(columns)).collect();
    let parts: Vec<Vec<f32>> = ranges.par_iter().map(|range| part(range.clone())).collect();
    let mut joined = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for (range, part) in ranges.iter().zip(&parts) {
            joined.extend_from_slice(&part[row * range.len()..][..range.len()]);
        }
    }
    joined
}
