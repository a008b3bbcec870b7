//! Which layers to edit, read off an average.

use std::ops::Range;

use serde::Serialize;

use crate::{Average, Restored, TokenClass};

/// Layers to edit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestion {
    /// For a method that edits one layer: the centre of the window of MLP outputs with the largest average indirect effect at the last
    /// subject token. Of equal ones the lowest.
    pub layer: usize,
    /// Its average indirect effect.
    pub effect: f64,
    /// For a method that edits several: the neighbouring layers with the largest sum of these effects. Of equal ones the lowest.
    pub layers: Range<usize>,
    /// Number of facts it rests on.
    pub facts: usize,
}

/// Suggests one layer, and `count` neighbouring ones (as many as there are, at most). `None` if MLP outputs were not restored, or no
/// fact is in the average.
///
/// # Source
///
/// Meng et al. 2022, section 3.1 (the layer of the largest effect); Meng et al. 2023, "Mass-Editing Memory in a Transformer", section
/// 4.2 (a range of layers around it).
pub fn suggest_layers(average: &Average, count: usize) -> Option<Suggestion> {
    let panel = average.panels.iter().find(|panel| panel.restored == Restored::Mlp)?;
    let effects = panel.classes.get(&TokenClass::LastSubject)?;
    let layer = effects.peak()?;
    let means: Vec<f64> = effects.layers.iter().map(|effect| effect.mean).collect();
    let count = count.clamp(1, means.len());
    let sums = means.windows(count).map(|window| window.iter().sum::<f64>()).enumerate();
    let (start, _) = sums.reduce(|best, sum| if sum.1 > best.1 { sum } else { best })?;
    Some(Suggestion { layer, effect: means[layer], layers: start..start + count, facts: effects.facts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::average::tests::fact;

    #[test]
    fn the_peak_and_the_heaviest_window_are_taken() {
        // Effects of the last subject token by layer: 0, 0.5, 0.3, 0.4.
        let traced = [fact(3, 0..2, Restored::Mlp, |token, layer| 0.1 + if token == 1 { [0.0, 0.5, 0.3, 0.4][layer] } else { 0.7 })];
        let average = Average::of(&traced);
        let two = suggest_layers(&average, 2).unwrap();
        assert_eq!((two.layer, two.layers, two.facts), (1, 1..3, 1));
        assert!((two.effect - 0.5).abs() < 1e-12);
        assert_eq!(suggest_layers(&average, 3).unwrap().layers, 1..4);
        assert_eq!(suggest_layers(&average, 9).unwrap().layers, 0..4);
        assert!(suggest_layers(&Average::of(&[fact(3, 0..2, Restored::Hidden, |_, _| 0.5)]), 2).is_none());
        assert!(suggest_layers(&Average::of(&[]), 2).is_none());
    }
}
