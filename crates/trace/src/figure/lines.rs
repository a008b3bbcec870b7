//! Curves of average effects by layer, each in the band of its 95 % interval.

use plotters::prelude::DrawingBackend;
use plotters::style::RGBColor;

use super::canvas::{Anchor, Canvas, Drawn};
use super::colour::Hue;
use super::heat::number;
use crate::{MeanEffect, TokenClass};

const INK: RGBColor = RGBColor(25, 25, 25);
const FRAME: RGBColor = RGBColor(150, 150, 150);
const GRID: RGBColor = RGBColor(225, 225, 225);
const SMALL_SIZE: i32 = 11;

/// Curves of a panel.
#[derive(Clone, Debug)]
pub(super) struct LinePanel {
    pub(super) lines: Vec<(TokenClass, Vec<MeanEffect>)>,
}

impl LinePanel {
    /// Upper end of the highest band.
    pub(super) fn highest(&self) -> f64 {
        self.lines.iter().flat_map(|(_, effects)| effects).map(|e| e.mean + e.interval.unwrap_or(0.0)).fold(0.0, f64::max)
    }

    /// Lower end of the lowest band, or 0.
    pub(super) fn lowest(&self) -> f64 {
        self.lines.iter().flat_map(|(_, effects)| effects).map(|e| e.mean - e.interval.unwrap_or(0.0)).fold(0.0, f64::min)
    }

    /// Draws the curves below a map: `cell` is the width of a layer's cell, `lowest` and `highest` are the ends of the scale, the same
    /// for all panels, and the first of them names it.
    pub(super) fn draw<DB: DrawingBackend>(
        &self,
        canvas: &Canvas<DB>,
        (left, top): (i32, i32),
        (cell, layers): (i32, usize),
        height: i32,
        (lowest, highest): (f64, f64),
        (hue, first): (Hue, bool),
    ) -> Drawn<()> {
        let (right, bottom) = (left + cell * layers as i32, top + height);
        let (low, high) = (lowest.max(-0.5 * highest), highest.max(1e-6) * 1.05);
        let x = |layer: usize| left + cell * layer as i32 + cell / 2;
        let y = |value: f64| bottom - ((value.clamp(low, high) - low) / (high - low) * f64::from(height)).round() as i32;
        for value in [0.0, highest / 2.0, highest] {
            canvas.line(&[(left, y(value)), (right, y(value))], GRID, 1)?;
            if first {
                canvas.text(&number(value, highest), (left - 5, y(value)), SMALL_SIZE, INK, Anchor::Right)?;
            }
        }
        for (number, (class, effects)) in self.lines.iter().enumerate() {
            let colour = if *class == TokenClass::LastSubject { hue.at(0.85) } else { RGBColor(120, 120, 120) };
            let edge = |sign: f64| effects.iter().enumerate().map(move |(layer, e)| (layer, e.mean + sign * e.interval.unwrap_or(0.0)));
            let band: Vec<_> =
                edge(1.0).chain(edge(-1.0).collect::<Vec<_>>().into_iter().rev()).map(|(layer, v)| (x(layer), y(v))).collect();
            canvas.band(&band, colour)?;
            let curve: Vec<_> = effects.iter().enumerate().map(|(layer, e)| (x(layer), y(e.mean))).collect();
            canvas.line(&curve, colour, 2)?;
            let legend = (left + 8, top + 10 + 15 * number as i32);
            canvas.line(&[(legend.0, legend.1), (legend.0 + 16, legend.1)], colour, 2)?;
            canvas.text(class.title(), (legend.0 + 21, legend.1), SMALL_SIZE, INK, Anchor::Left)?;
        }
        if first {
            canvas.upward("average indirect effect", (left - 46, (top + bottom) / 2), SMALL_SIZE, INK)?;
        }
        canvas.line(&[(left, top), (left, bottom), (right, bottom)], FRAME, 1)
    }
}
