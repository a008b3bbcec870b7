//! A sheet as SVG text or as PNG bytes.

use std::sync::LazyLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, register_font};

use super::heat::Sheet;

/// Latin, Greek and Cyrillic letters of DejaVu Sans, so that text is drawn the same on every machine. See `fonts/LICENSE`.
static FONT: &[u8] = include_bytes!("../../fonts/DejaVuSans-subset.ttf");

/// Whether the font could be registered.
static REGISTERED: LazyLock<bool> = LazyLock::new(|| register_font("sans-serif", FontStyle::Normal, FONT).is_ok());

/// Pixels of a PNG for each unit of a sheet.
const PNG_SCALE: i32 = 2;

/// What goes wrong while drawing, as text.
pub(super) type Drawn<T> = Result<T, String>;

/// Draws as vectors.
pub(super) fn svg(sheet: &Sheet) -> Drawn<String> {
    check_font()?;
    let mut text = String::new();
    let (width, height) = sheet.size();
    sheet.draw(&Canvas::new(SVGBackend::with_string(&mut text, (width as u32, height as u32)).into_drawing_area(), 1))?;
    Ok(text)
}

/// Draws as pixels.
pub(super) fn png(sheet: &Sheet) -> Drawn<Vec<u8>> {
    check_font()?;
    let (width, height) = sheet.size();
    let (width, height) = ((width * PNG_SCALE) as u32, (height * PNG_SCALE) as u32);
    let mut pixels = vec![0; width as usize * height as usize * 3];
    sheet.draw(&Canvas::new(BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area(), PNG_SCALE))?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    written.map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn check_font() -> Drawn<()> {
    if *REGISTERED { Ok(()) } else { Err("the built-in font cannot be read".into()) }
}

/// Width of a text, in units.
pub(super) fn text_width(text: &str, size: i32) -> i32 {
    let font = FontDesc::new(FontFamily::SansSerif, f64::from(size), FontStyle::Normal);
    let guess = text.chars().count() as i32 * size * 2 / 3;
    if *REGISTERED { font.layout_box(text).map_or(guess, |((left, _), (right, _))| right - left) } else { guess }
}

/// Which side of a text is at the point it is put at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Left,
    Centre,
    Right,
}

/// Draws in units, whatever the backend's pixels are.
pub(super) struct Canvas<DB: DrawingBackend> {
    area: DrawingArea<DB, Shift>,
    scale: i32,
}

impl<DB: DrawingBackend> Canvas<DB> {
    fn new(area: DrawingArea<DB, Shift>, scale: i32) -> Self {
        Self { area, scale }
    }

    fn at(&self, (x, y): (i32, i32)) -> (i32, i32) {
        (x * self.scale, y * self.scale)
    }

    fn put<'a, E>(&self, element: &'a E) -> Drawn<()>
    where
        &'a E: plotters::element::PointCollection<'a, (i32, i32)>,
        E: plotters::element::Drawable<DB>,
    {
        self.area.draw(element).map_err(|e| e.to_string())
    }

    /// Makes all of it white.
    pub(super) fn clear(&self) -> Drawn<()> {
        self.area.fill(&WHITE).map_err(|e| e.to_string())
    }

    /// Shows what was drawn.
    pub(super) fn finish(&self) -> Drawn<()> {
        self.area.present().map_err(|e| e.to_string())
    }

    /// A filled rectangle between two corners, the second of which is the first point outside.
    pub(super) fn fill(&self, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Drawn<()> {
        let (left, top) = self.at(from);
        let (right, bottom) = self.at(to);
        self.put(&Rectangle::new([(left, top), (right, bottom)], colour.filled()))
    }

    /// The outline of a rectangle.
    pub(super) fn frame(&self, (left, top): (i32, i32), (right, bottom): (i32, i32), colour: RGBColor) -> Drawn<()> {
        self.line(&[(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], colour, 1)
    }

    /// A line through points.
    pub(super) fn line(&self, points: &[(i32, i32)], colour: RGBColor, width: i32) -> Drawn<()> {
        let points: Vec<_> = points.iter().map(|point| self.at(*point)).collect();
        self.put(&PathElement::new(points, colour.stroke_width((width * self.scale) as u32)))
    }

    /// A filled polygon, half transparent.
    pub(super) fn band(&self, points: &[(i32, i32)], colour: RGBColor) -> Drawn<()> {
        let points: Vec<_> = points.iter().map(|point| self.at(*point)).collect();
        self.put(&Polygon::new(points, colour.mix(0.2).filled()))
    }

    /// A line of text, centred vertically on its point.
    pub(super) fn text(&self, text: &str, at: (i32, i32), size: i32, colour: RGBColor, anchor: Anchor) -> Drawn<()> {
        self.styled(text, at, size, colour, anchor, FontTransform::None)
    }

    /// A text that runs upwards, centred on its point.
    pub(super) fn upward(&self, text: &str, at: (i32, i32), size: i32, colour: RGBColor) -> Drawn<()> {
        self.styled(text, at, size, colour, Anchor::Centre, FontTransform::Rotate270)
    }

    fn styled(&self, text: &str, at: (i32, i32), size: i32, colour: RGBColor, anchor: Anchor, transform: FontTransform) -> Drawn<()> {
        let side = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Centre => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        let font = FontDesc::new(FontFamily::SansSerif, f64::from(size * self.scale), FontStyle::Normal).transform(transform.clone());
        let style = TextStyle::from(font).color(&colour).pos(Pos::new(side, VPos::Center));
        // Pixels centre a text's box, which has room below for letters that reach down; vectors centre its small letters.
        let sunk = if self.scale == 1 { 0 } else { size * self.scale / 8 };
        let (x, y) = self.at(at);
        let at = if matches!(transform, FontTransform::None) { (x, y + sunk) } else { (x + sunk, y) };
        self.put(&Text::new(text.to_owned(), at, style))
    }
}
