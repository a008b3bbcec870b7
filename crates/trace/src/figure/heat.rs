//! A sheet of heat maps side by side, which share the names of their rows.

use plotters::prelude::DrawingBackend;
use plotters::style::RGBColor;

use super::canvas::{Anchor, Canvas, Drawn, text_width};
use super::colour::Hue;
use super::lines::LinePanel;

const INK: RGBColor = RGBColor(25, 25, 25);
const FAINT: RGBColor = RGBColor(110, 110, 110);
const FRAME: RGBColor = RGBColor(150, 150, 150);
/// Behind rows without numbers.
const ABSENT: RGBColor = RGBColor(235, 235, 235);

const MARGIN: i32 = 14;
const TITLE_SIZE: i32 = 16;
const TEXT_SIZE: i32 = 12;
const SMALL_SIZE: i32 = 11;
const CELL_HEIGHT: i32 = 19;
/// Width a panel's cells share, and the least and largest of one cell.
const PANEL_WIDTH: i32 = 300;
const CELL_WIDTHS: (i32, i32) = (3, 60);
/// Colour scale: gap before it, its width, room for its numbers and its title.
const SCALE: [i32; 4] = [8, 12, 36, 18];
const BETWEEN_PANELS: i32 = 22;
const LINES_HEIGHT: i32 = 110;
const LONGEST_LABEL: usize = 26;

/// A row's name, cut if it is long.
fn shown(label: &str) -> String {
    let mut text: String = label.chars().take(LONGEST_LABEL).collect();
    if text.len() < label.len() {
        text.push('…');
    }
    text
}

/// One heat map.
#[derive(Clone, Debug)]
pub(super) struct HeatPanel {
    pub(super) title: String,
    pub(super) x_title: String,
    pub(super) scale_title: String,
    pub(super) hue: Hue,
    /// Numbers by row and layer; a row without numbers is grey.
    pub(super) rows: Vec<Vec<f64>>,
    /// Where the scale begins; it ends at the largest number.
    pub(super) low: f64,
    /// Curves below the map.
    pub(super) lines: Option<LinePanel>,
}

impl HeatPanel {
    fn layers(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    fn high(&self) -> f64 {
        let largest = self.rows.iter().flatten().copied().filter(|v| v.is_finite()).fold(f64::NEG_INFINITY, f64::max);
        if largest > self.low + 1e-6 { largest } else { self.low + 1e-6 }
    }

    fn cell_width(&self) -> i32 {
        (PANEL_WIDTH / self.layers().max(1) as i32).clamp(CELL_WIDTHS.0, CELL_WIDTHS.1)
    }

    fn map_width(&self) -> i32 {
        self.cell_width() * self.layers() as i32
    }

    fn width(&self) -> i32 {
        self.map_width() + SCALE.iter().sum::<i32>()
    }
}

/// What is on a figure.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub(super) title: String,
    /// A line of small print at the foot.
    pub(super) note: String,
    /// Names of the rows.
    pub(super) labels: Vec<String>,
    pub(super) panels: Vec<HeatPanel>,
}

impl Sheet {
    fn label_width(&self) -> i32 {
        self.labels.iter().map(|label| text_width(&shown(label), TEXT_SIZE)).max().unwrap_or(0) + 8
    }

    fn map_height(&self) -> i32 {
        CELL_HEIGHT * self.labels.len() as i32
    }

    /// Top of the maps.
    fn top(&self) -> i32 {
        MARGIN + TITLE_SIZE + 38
    }

    fn has_lines(&self) -> bool {
        self.panels.iter().any(|panel| panel.lines.is_some())
    }

    /// Width and height in units.
    pub(super) fn size(&self) -> (i32, i32) {
        let panels: i32 = self.panels.iter().map(HeatPanel::width).sum();
        let between = BETWEEN_PANELS * (self.panels.len() as i32 - 1).max(0);
        let words = text_width(&self.title, TITLE_SIZE).max(text_width(&self.note, SMALL_SIZE));
        let width = (self.label_width() + panels + between).max(words) + 2 * MARGIN;
        let lines = if self.has_lines() { LINES_HEIGHT + 34 } else { 0 };
        (width, self.top() + self.map_height() + lines + 62 + MARGIN)
    }

    /// Draws everything.
    pub(super) fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<()> {
        let (width, height) = self.size();
        canvas.clear()?;
        canvas.text(&self.title, (width / 2, MARGIN + TITLE_SIZE / 2), TITLE_SIZE, INK, Anchor::Centre)?;
        let left = MARGIN + self.label_width();
        for (row, label) in self.labels.iter().enumerate() {
            let middle = self.top() + CELL_HEIGHT * row as i32 + CELL_HEIGHT / 2;
            canvas.text(&shown(label), (left - 6, middle), TEXT_SIZE, INK, Anchor::Right)?;
        }
        let mut x = left;
        let curves = || self.panels.iter().filter_map(|panel| panel.lines.as_ref());
        let ends = (curves().map(LinePanel::lowest).fold(0.0, f64::min), curves().map(LinePanel::highest).fold(0.0, f64::max));
        for (number, panel) in self.panels.iter().enumerate() {
            self.draw_map(canvas, panel, x)?;
            let mut below = self.top() + self.map_height();
            if let Some(lines) = &panel.lines {
                let corner = (x, below + 26);
                lines.draw(canvas, corner, (panel.cell_width(), panel.layers()), LINES_HEIGHT, ends, (panel.hue, number == 0))?;
                below += 26 + LINES_HEIGHT;
            }
            self.draw_layers(canvas, panel, (x, below))?;
            x += panel.width() + BETWEEN_PANELS;
        }
        canvas.text(&self.note, (width / 2, height - MARGIN - 2), SMALL_SIZE, FAINT, Anchor::Centre)?;
        canvas.finish()
    }

    fn draw_map<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, panel: &HeatPanel, left: i32) -> Drawn<()> {
        let (top, bottom) = (self.top(), self.top() + self.map_height());
        let (cell, right) = (panel.cell_width(), left + panel.map_width());
        let (low, high) = (panel.low, panel.high());
        canvas.text(&panel.title, ((left + right) / 2, top - 14), TEXT_SIZE + 1, INK, Anchor::Centre)?;
        for (row, numbers) in panel.rows.iter().enumerate() {
            let y = top + CELL_HEIGHT * row as i32;
            if numbers.is_empty() {
                canvas.fill((left, y), (right, y + CELL_HEIGHT), ABSENT)?;
            }
            for (layer, number) in numbers.iter().enumerate() {
                let x = left + cell * layer as i32;
                canvas.fill((x, y), (x + cell, y + CELL_HEIGHT), panel.hue.at((number - low) / (high - low)))?;
            }
        }
        canvas.frame((left, top), (right, bottom), FRAME)?;

        let [gap, width, numbers, title] = SCALE;
        let (from, to) = (right + gap, right + gap + width);
        for y in top..bottom {
            let share = f64::from(bottom - 1 - y) / f64::from((bottom - top - 1).max(1));
            canvas.fill((from, y), (to, y + 1), panel.hue.at(share))?;
        }
        canvas.frame((from, top), (to, bottom), FRAME)?;
        for share in [0.0, 0.5, 1.0] {
            let y = bottom - (share * f64::from(bottom - top)).round() as i32;
            canvas.line(&[(to, y), (to + 3, y)], FRAME, 1)?;
            canvas.text(&number(low + share * (high - low), high), (to + 5, y), SMALL_SIZE, INK, Anchor::Left)?;
        }
        canvas.upward(&panel.scale_title, (to + numbers + title / 2, (top + bottom) / 2), SMALL_SIZE, INK)
    }

    /// Numbers of the layers, and what they are, below the panel.
    fn draw_layers<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, panel: &HeatPanel, (left, y): (i32, i32)) -> Drawn<()> {
        let cell = panel.cell_width();
        for layer in (0..panel.layers()).step_by(tick_step(panel.layers())) {
            let x = left + cell * layer as i32 + cell / 2;
            canvas.line(&[(x, y), (x, y + 4)], FRAME, 1)?;
            canvas.text(&layer.to_string(), (x, y + 12), SMALL_SIZE, INK, Anchor::Centre)?;
        }
        canvas.text(&panel.x_title, (left + panel.map_width() / 2, y + 29), TEXT_SIZE, INK, Anchor::Centre)
    }
}

/// A step between numbered layers that leaves at most eight numbers.
fn tick_step(layers: usize) -> usize {
    [1, 2, 5, 10, 20, 50].into_iter().find(|step| layers.div_ceil(*step) <= 8).unwrap_or(100)
}

/// A number of a scale that ends at `high`, with as many digits as tell its ticks apart.
pub(super) fn number(value: f64, high: f64) -> String {
    match high.abs() {
        h if h >= 0.1 => format!("{value:.2}"),
        h if h >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_numbers_are_few_and_short() {
        assert_eq!([4, 8, 12, 30, 48, 80].map(tick_step), [1, 1, 2, 5, 10, 10]);
        assert_eq!([number(0.5, 1.0), number(0.05, 0.09), number(0.0001, 0.0002)], ["0.50", "0.050", "1e-4"]);
    }

    #[test]
    fn long_labels_are_cut() {
        assert_eq!(shown("Tower*"), "Tower*");
        assert_eq!(shown(&"ä".repeat(40)), format!("{}…", "ä".repeat(26)));
    }

    #[test]
    fn a_scale_without_a_difference_still_has_two_ends() {
        let panel = HeatPanel {
            title: String::new(),
            x_title: String::new(),
            scale_title: String::new(),
            hue: Hue::Red,
            rows: vec![vec![0.2, 0.2], vec![]],
            low: 0.2,
            lines: None,
        };
        assert!(panel.high() > panel.low);
        assert_eq!(panel.map_width(), 120);
    }
}
