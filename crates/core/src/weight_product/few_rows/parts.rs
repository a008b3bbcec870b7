use std::ops::Range;

/// Ranges of columns begin at multiples of it, which whole blocks of every kernel and vector size fill.
const UNIT: usize = 48;

/// The columns of part `part` of `parts`; empty where there are more parts than blocks.
pub(super) fn range(columns: usize, part: usize, parts: usize) -> Range<usize> {
    let units = columns.div_ceil(UNIT);
    let bound = |part: usize| (units * part / parts * UNIT).min(columns);
    bound(part)..bound(part + 1)
}

/// The rows cut into parts at the same columns.
pub(super) fn cut(rows: Vec<&mut [f32]>, parts: usize) -> Vec<Vec<&mut [f32]>> {
    let mut cut: Vec<Vec<&mut [f32]>> = (0..parts).map(|_| Vec::with_capacity(rows.len())).collect();
    for mut row in rows {
        let columns = row.len();
        for (part, cut) in cut.iter_mut().enumerate() {
            let (first, rest) = row.split_at_mut(range(columns, part, parts).len());
            cut.push(first);
            row = rest;
        }
    }
    cut
}
