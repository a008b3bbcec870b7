/// Some rows of a matrix, turned round: number by number of a row, that number of each.
pub(super) struct Panel {
    /// The first row, and how many there are.
    pub(super) first: usize,
    pub(super) rows: usize,
    /// Numbers side by side: one a row, and zeros after them.
    pub(super) lanes: usize,
    /// `[width, lanes]`
    pub(super) values: Vec<f32>,
}

impl Panel {
    /// The rows `x` from `first` on, as many as there are or `lanes`.
    pub(super) fn new(x: &[&[f32]], first: usize, lanes: usize) -> Self {
        /// Numbers of a row that are turned round at once, so that what is written stays in the cache.
        const TURNED: usize = 64;
        let rows = (x.len() - first).min(lanes);
        let mut values = vec![0.0; x.first().map_or(0, |row| row.len()) * lanes];
        for (part, values) in values.chunks_mut(TURNED * lanes).enumerate() {
            for row in 0..rows {
                let from = &x[first + row][part * TURNED..];
                values.chunks_exact_mut(lanes).zip(from).for_each(|(to, from)| to[row] = *from);
            }
        }
        Self { first, rows, lanes, values }
    }
}
