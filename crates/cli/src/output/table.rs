//! Aligned columns, measured as the terminal shows them.

use console::{Term, measure_text_width, truncate_str};

use super::{one_line, style, visible};

/// Width of a text that is not on a terminal, in columns.
const PLAIN_WIDTH: usize = 120;
/// Narrowest and widest a table is drawn, in columns.
const WIDTHS: (usize, usize) = (60, 140);
/// Narrower a column that gives way for another is not made, in columns.
const READABLE: usize = 22;
/// Narrower no column is made.
const SHORTEST: usize = 8;
const GAP: &str = "  ";

/// On which side a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

enum Row {
    Cells(Vec<String>),
    Section(String),
}

/// Rows of cells under a heading; cells that do not fit are cut with `…`.
pub(crate) struct Table {
    heading: Vec<String>,
    align: Vec<Align>,
    rows: Vec<Row>,
    kept: Option<usize>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            heading: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
            align: columns.iter().map(|(_, align)| *align).collect(),
            rows: Vec::new(),
            kept: None,
        }
    }

    /// The column that gives way last when the table is too wide.
    pub(crate) fn keep(&mut self, column: usize) -> &mut Self {
        self.kept = Some(column);
        self
    }

    /// Adds a row; missing cells are empty. A cell is shown on one line, with control characters written out.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) -> &mut Self {
        self.rows.push(Row::Cells(cells.into_iter().map(|cell| visible(&one_line(&cell)).into_owned()).collect()));
        self
    }

    /// Adds a line that names the rows below it.
    pub(crate) fn section(&mut self, title: &str) -> &mut Self {
        self.rows.push(Row::Section(title.to_owned()));
        self
    }

    /// The table as text, as wide as the terminal allows.
    pub(crate) fn render(&self) -> String {
        let terminal = Term::stdout();
        let width = if terminal.is_term() { usize::from(terminal.size().1) } else { PLAIN_WIDTH };
        self.render_within(width.clamp(WIDTHS.0, WIDTHS.1))
    }

    fn render_within(&self, total: usize) -> String {
        let widths = self.widths(total);
        let mut lines = Vec::new();
        if self.heading.iter().any(|name| !name.is_empty()) {
            lines.push(self.line(&self.heading, &widths, |cell| style(cell).dim().to_string()));
        }
        for row in &self.rows {
            lines.push(match row {
                Row::Section(title) => style(title).bold().to_string(),
                Row::Cells(cells) => self.line(cells, &widths, str::to_owned),
            });
        }
        lines.join("\n") + "\n"
    }

    /// Natural widths; the widest columns give way until all fit, the kept one once the others are at [`READABLE`].
    fn widths(&self, total: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = self.heading.iter().map(|name| measure_text_width(name)).collect();
        for row in &self.rows {
            if let Row::Cells(cells) = row {
                for (width, cell) in widths.iter_mut().zip(cells) {
                    *width = (*width).max(measure_text_width(cell));
                }
            }
        }
        let gaps = GAP.len() * (widths.len() + 1);
        while widths.iter().sum::<usize>() + gaps > total {
            let others = widths.iter().enumerate().filter(|(column, width)| Some(*column) != self.kept && **width > READABLE);
            let widest = others.max_by_key(|(_, width)| **width).or_else(|| widths.iter().enumerate().max_by_key(|(_, width)| **width));
            let widest = widest.map(|(column, _)| column);
            match widest.and_then(|column| widths.get_mut(column)) {
                Some(width) if *width > SHORTEST => *width -= 1,
                _ => break,
            }
        }
        widths
    }

    fn line(&self, cells: &[String], widths: &[usize], paint: impl Fn(&str) -> String) -> String {
        let mut line = String::new();
        for (column, (width, align)) in widths.iter().zip(&self.align).enumerate() {
            let cell = truncate_str(cells.get(column).map_or("", String::as_str), *width, "…");
            let space = " ".repeat(width.saturating_sub(measure_text_width(&cell)));
            line.push_str(GAP);
            match align {
                Align::Left => line.extend([paint(&cell), space]),
                Align::Right => line.extend([space, paint(&cell)]),
            }
        }
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cut() {
        let mut table = Table::new(&[("prompt", Align::Left), ("acc", Align::Right)]);
        table.section("first").row(["The capital of France is".into(), "1.00".into()]).row(["Où?".into(), "0.5".into()]);
        assert_eq!(table.render_within(24), "  prompt           acc\nfirst\n  The capital o…  1.00\n  Où?              0.5\n");
    }

    #[test]
    fn a_table_too_narrow_for_its_columns_is_still_drawn() {
        let mut table = Table::new(&[("", Align::Left); 6]);
        table.row((0..6).map(|_| "0123456789".to_owned()));
        assert!(table.render_within(10).contains("0123456…"));
    }
}
