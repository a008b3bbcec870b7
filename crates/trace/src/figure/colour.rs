//! Scales from white to a deep colour, equally light in print and for the colour-blind.

use plotters::style::RGBColor;

/// A scale of one colour. The stops are those of ColorBrewer's sequential scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hue {
    Purple,
    Green,
    Red,
}

impl Hue {
    const fn stops(self) -> [(u8, u8, u8); 9] {
        match self {
            Self::Purple => [
                (252, 251, 253),
                (239, 237, 245),
                (218, 218, 235),
                (188, 189, 220),
                (158, 154, 200),
                (128, 125, 186),
                (106, 81, 163),
                (84, 39, 143),
                (63, 0, 125),
            ],
            Self::Green => [
                (247, 252, 245),
                (229, 245, 224),
                (199, 233, 192),
                (161, 217, 155),
                (116, 196, 118),
                (65, 171, 93),
                (35, 139, 69),
                (0, 109, 44),
                (0, 68, 27),
            ],
            Self::Red => [
                (255, 245, 240),
                (254, 224, 210),
                (252, 187, 161),
                (252, 146, 114),
                (251, 106, 74),
                (239, 59, 44),
                (203, 24, 29),
                (165, 15, 21),
                (103, 0, 13),
            ],
        }
    }

    /// The colour at `share` of the scale, from 0 (nearly white) to 1; what lies beyond is the end's.
    pub(super) fn at(self, share: f64) -> RGBColor {
        let stops = self.stops();
        let place = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 } * (stops.len() - 1) as f64;
        let below = (place as usize).min(stops.len() - 2);
        let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * (place - below as f64)).round() as u8;
        let (a, b) = (stops[below], stops[below + 1]);
        RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_where_they_should() {
        assert_eq!(Hue::Purple.at(0.0), RGBColor(252, 251, 253));
        assert_eq!(Hue::Purple.at(7.0), RGBColor(63, 0, 125));
        assert_eq!(Hue::Green.at(f64::NAN), RGBColor(247, 252, 245));
        assert_eq!(Hue::Red.at(0.0625), RGBColor(255, 235, 225));
    }
}
