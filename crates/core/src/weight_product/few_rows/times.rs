use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::matrix::Matrix;
use super::panel::Panel;
use super::prefetch::prefetch;
use super::stored::Stored;

/// Rows of the weight in a tile, which stays in the first cache while all rows of `x` pass over it.
const DEPTH: usize = 96;

/// Vectors in a row of a tile.
const VECTORS: usize = 3;

/// `x W`: of `x: [rows, in]` and `weight: [in, out]`, `[rows, out]`.
pub(super) struct Times<'a, 'y, T> {
    pub(super) x: &'a [&'a [f32]],
    pub(super) weight: Matrix<'a, T>,
    /// Zeros before.
    pub(super) y: &'a mut [&'y mut [f32]],
}

impl<T: Stored> WithSimd for Times<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, weight, y } = self;
        let (lanes, width) = (S::F32_LANES, weight.width());
        let panels = panels::<S>(x);
        let whole = width / lanes * lanes;
        add(simd, &panels, weight.of_columns(0..whole), y);
        if whole < width {
            // The last columns, filled up to a vector.
            let mut last = vec![T::zeroed(); weight.rows() * lanes];
            last.chunks_exact_mut(lanes).enumerate().for_each(|(row, to)| to[..width - whole].copy_from_slice(&weight.row(row)[whole..]));
            let mut sums = vec![0.0; x.len() * lanes];
            let mut rows: Vec<&mut [f32]> = sums.chunks_exact_mut(lanes).collect();
            add(simd, &panels, Matrix::contiguous(&last, lanes), &mut rows);
            for (y, sums) in y.iter_mut().zip(rows) {
                y[whole..].copy_from_slice(&sums[..width - whole]);
            }
        }
    }
}

/// The rows of `x` in panels of as many as leave room in the registers for a tile's row, half as many at the end.
#[inline(always)]
fn panels<S: Simd>(x: &[&[f32]]) -> Vec<Panel> {
    let most = if S::REGISTER_COUNT >= 32 { 8 } else { 4 };
    let mut panels = Vec::new();
    let mut first = 0;
    while first < x.len() {
        let lanes = if x.len() - first > 4 { most } else { 4 };
        panels.push(Panel::new(x, first, lanes));
        first += lanes;
    }
    panels
}

/// A block of the weight.
#[derive(Clone)]
struct Tile {
    rows: Range<usize>,
    /// Its first column.
    column: usize,
    /// Vectors in a row.
    vectors: usize,
}

/// Adds `x W` to `y`; the weight's width is a multiple of the vectors'.
#[inline(always)]
fn add<S: Simd, T: Stored>(simd: S, panels: &[Panel], weight: Matrix<'_, T>, y: &mut [&mut [f32]]) {
    let (lanes, vectors) = (S::F32_LANES, weight.width() / S::F32_LANES);
    let mut columns: Vec<(usize, usize)> = (0..vectors / VECTORS).map(|strip| (strip * VECTORS * lanes, VECTORS)).collect();
    columns.extend((vectors / VECTORS * VECTORS..vectors).map(|vector| (vector * lanes, 1)));
    let mut tiles = Vec::new();
    for start in (0..weight.rows()).step_by(DEPTH) {
        let rows = start..(start + DEPTH).min(weight.rows());
        tiles.extend(columns.iter().map(|(column, vectors)| Tile { rows: rows.clone(), column: *column, vectors: *vectors }));
    }
    let mut room = vec![0.0; DEPTH * VECTORS * lanes];
    for (i, tile) in tiles.iter().enumerate() {
        let next = tiles.get(i + 1);
        T::widen_tile(weight, tile.rows.clone(), tile.column..tile.column + tile.vectors * lanes, &mut room);
        for (i, panel) in panels.iter().enumerate() {
            // The next tile's rows are asked for bit by bit.
            let ahead = next.map(|next| {
                let share = |panel: usize| next.rows.start + next.rows.len() * panel / panels.len();
                Tile { rows: share(i)..share(i + 1), ..next.clone() }
            });
            let block = Block { panel, weight, room: &room, tile, ahead, y: &mut y[panel.first..] };
            match (panel.lanes, tile.vectors) {
                (8, VECTORS) => block.add::<S, 8, VECTORS>(simd),
                (8, _) => block.add::<S, 8, 1>(simd),
                (_, VECTORS) => block.add::<S, 4, VECTORS>(simd),
                (_, _) => block.add::<S, 4, 1>(simd),
            };
        }
    }
}

/// Some rows of `x`, and the tile they pass over.
struct Block<'a, 'y, T> {
    panel: &'a Panel,
    weight: Matrix<'a, T>,
    /// The tile as `f32`, unless the weight is.
    room: &'a [f32],
    tile: &'a Tile,
    /// What of the next tile is asked for meanwhile.
    ahead: Option<Tile>,
    /// From the panel's first row on.
    y: &'a mut [&'y mut [f32]],
}

impl<T: Stored> Block<'_, '_, T> {
    /// Adds the products.
    #[expect(clippy::manual_memcpy, reason = "a slice of the sums would have them in memory instead of registers")]
    #[inline(always)]
    fn add<S: Simd, const LANES: usize, const VECTORS: usize>(self, simd: S) {
        let Self { panel, weight, room, tile: Tile { rows, column, .. }, ahead, y } = self;
        let width = VECTORS * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; LANES];
        for i in 0..LANES {
            if i < panel.rows {
                let y = S::as_simd_f32s(&y[i][*column..][..width]).0;
                for vector in 0..VECTORS {
                    sums[i][vector] = y[vector];
                }
            }
        }
        let (mut asked, until, next_column) = ahead.map_or((0, 0, 0), |tile| (tile.rows.start, tile.rows.end, tile.column));
        for (row, x) in rows.clone().zip(panel.values[rows.start * LANES..].chunks_exact(LANES)) {
            if asked < until {
                let next = weight.row(asked);
                for vector in 0..VECTORS {
                    prefetch(&next[(next_column + vector * S::F32_LANES).min(next.len() - 1)]);
                }
                asked += 1;
            }
            let weights = S::as_simd_f32s(T::in_tile(weight, row, *column..*column + width, room, row - rows.start)).0;
            for i in 0..LANES {
                let x = simd.splat_f32s(x[i]);
                for vector in 0..VECTORS {
                    sums[i][vector] = simd.mul_add_f32s(x, weights[vector], sums[i][vector]);
                }
            }
        }
        for i in 0..LANES {
            if i < panel.rows {
                let y = S::as_mut_simd_f32s(&mut y[i][*column..][..width]).0;
                for vector in 0..VECTORS {
                    y[vector] = sums[i][vector];
                }
            }
        }
    }
}
