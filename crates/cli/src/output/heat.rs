//! Heat maps on the terminal: one character a number.

use console::{Color, measure_text_width, truncate_str};

use super::{style, visible};

/// From the lowest eighth of a scale to the highest.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Longest name of a row, in columns.
const LONGEST_NAME: usize = 26;
/// A column is numbered every so many.
const NUMBERED: usize = 10;

/// Numbers in rows, each as high as it is large.
pub(crate) struct HeatMap {
    /// What the numbers are.
    pub(crate) title: String,
    /// Names and numbers; a row without numbers says so.
    pub(crate) rows: Vec<(String, Vec<f64>)>,
    /// Where the scale begins; it ends at the largest number.
    pub(crate) low: f64,
    pub(crate) colour: Color,
}

impl HeatMap {
    /// The map as lines, each row with its largest number and the column of it.
    pub(crate) fn render(&self) -> String {
        let largest = self.rows.iter().flat_map(|(_, numbers)| numbers).copied().fold(self.low, f64::max);
        let width = self.rows.iter().map(|(name, _)| measure_text_width(&visible(name))).max().unwrap_or(0).min(LONGEST_NAME);
        let columns = self.rows.iter().map(|(_, numbers)| numbers.len()).max().unwrap_or(0);
        let mut text = format!("{}  {}\n", style(&self.title).bold(), style(format!("{:.3} to {largest:.3}", self.low)).dim());
        for (name, numbers) in &self.rows {
            let name = visible(name);
            let name = truncate_str(&name, width, "…");
            let space = " ".repeat(width - measure_text_width(&name).min(width));
            let cells: String = numbers.iter().map(|number| self.block(*number, largest)).collect();
            let peak = numbers.iter().enumerate().reduce(|best, one| if one.1 > best.1 { one } else { best });
            let peak = match peak {
                Some((layer, number)) if *number > self.low => format!("{number:.3} at layer {layer}"),
                Some(_) => String::new(),
                None => "no such token".to_owned(),
            };
            let line = format!("  {space}{name} {} {}", style(cells).fg(self.colour), style(peak).dim());
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let numbered: String = (0..columns.div_ceil(NUMBERED)).map(|ten| format!("{:<NUMBERED$}", ten * NUMBERED)).collect();
        text.push_str(&format!("  {} {}\n", " ".repeat(width), style(numbered.trim_end()).dim()));
        text
    }

    fn block(&self, number: f64, largest: f64) -> char {
        let share = (number - self.low) / (largest - self.low).max(1e-9);
        BLOCKS[((share.clamp(0.0, 1.0) * BLOCKS.len() as f64) as usize).min(BLOCKS.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_high_as_their_numbers() {
        console::set_colors_enabled(false);
        let map = HeatMap {
            title: "hidden state".into(),
            rows: vec![("Rome*".into(), vec![0.1, 0.5, 0.9]), ("is".into(), vec![0.1, 0.05, 0.2]), ("a".into(), vec![])],
            low: 0.1,
            colour: Color::Magenta,
        };
        let text = map.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "hidden state  0.100 to 0.900");
        assert_eq!(lines[1], "  Rome* ▁▅█ 0.900 at layer 2");
        assert_eq!(lines[2], "     is ▁▁▂ 0.200 at layer 2");
        assert_eq!(lines[3], "      a  no such token");
        assert_eq!(lines[4], "        0");
    }

    #[test]
    fn a_map_without_a_difference_is_flat() {
        let map = HeatMap { title: String::new(), rows: vec![("a".into(), vec![0.3, 0.3])], low: 0.3, colour: Color::Red };
        assert!(map.render().contains("▁▁"));
    }
}
