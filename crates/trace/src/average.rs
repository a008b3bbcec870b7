//! Means over facts by the role a token plays in its prompt.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::mean;
use crate::{FactTrace, Restored};

/// The role of a token in its prompt. A subject of one token has a last token alone; tokens before the subject have no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenClass {
    /// The subject's first token, unless it is the last, too.
    FirstSubject,
    /// The subject's tokens in between.
    MiddleSubject,
    /// The subject's last token.
    LastSubject,
    /// The first token behind the subject, unless it is the prompt's last.
    FirstSubsequent,
    /// The tokens between that and the prompt's last.
    FurtherSubsequent,
    /// The prompt's last token, unless it is the subject's.
    Last,
}

impl TokenClass {
    /// All roles, in the order of a prompt.
    pub const ALL: [Self; 6] =
        [Self::FirstSubject, Self::MiddleSubject, Self::LastSubject, Self::FirstSubsequent, Self::FurtherSubsequent, Self::Last];

    /// The role as text.
    pub const fn title(self) -> &'static str {
        match self {
            Self::FirstSubject => "First subject token",
            Self::MiddleSubject => "Middle subject tokens",
            Self::LastSubject => "Last subject token",
            Self::FirstSubsequent => "First subsequent token",
            Self::FurtherSubsequent => "Further tokens",
            Self::Last => "Last token",
        }
    }

    /// Whether it is the subject's.
    pub const fn is_subject(self) -> bool {
        matches!(self, Self::FirstSubject | Self::MiddleSubject | Self::LastSubject)
    }

    /// The role of token `token` of a fact's prompt.
    pub fn of(token: usize, fact: &FactTrace) -> Option<Self> {
        let subject = &fact.subject_tokens;
        Some(match token {
            t if t < subject.start => return None,
            t if t + 1 == subject.end => Self::LastSubject,
            t if t == subject.start => Self::FirstSubject,
            t if t < subject.end => Self::MiddleSubject,
            t if t + 1 == fact.tokens.len() => Self::Last,
            t if t == subject.end => Self::FirstSubsequent,
            _ => Self::FurtherSubsequent,
        })
    }
}

/// A mean over facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeanEffect {
    /// The mean.
    pub mean: f64,
    /// Half the width of its 95 % interval (Student's t over the facts); `None` with fewer than two facts.
    pub interval: Option<f64>,
}

impl MeanEffect {
    /// The mean of `values`, one for each fact.
    pub fn of(values: &[f64]) -> Self {
        let (count, mean) = (values.len(), mean(values));
        let interval = (count > 1).then(|| {
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
            student_t(count - 1) * (variance / count as f64).sqrt()
        });
        Self { mean, interval }
    }
}

/// Effects averaged over facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Average {
    /// Number of facts.
    pub facts: usize,
    /// Average total effect: how much the corruption takes from the answer's probability.
    pub total_effect: MeanEffect,
    /// One for each kind of restored states.
    pub panels: Vec<PanelAverage>,
}

/// Effects of restoring one kind of states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PanelAverage {
    /// The states.
    pub restored: Restored,
    /// Number of neighbouring layers restored together.
    pub window: usize,
    /// By role; roles that no fact has are absent.
    pub classes: BTreeMap<TokenClass, ClassEffects>,
}

/// Average indirect effects of restoring the tokens of one role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassEffects {
    /// Number of facts with such a token.
    pub facts: usize,
    /// By layer at the window's centre. An effect is how much the restoration gives back of the answer's probability: that with
    /// it minus that without. A fact with several tokens of the role counts once, with their mean.
    pub layers: Vec<MeanEffect>,
}

impl ClassEffects {
    /// The layer with the largest mean.
    pub fn peak(&self) -> Option<usize> {
        let layers = self.layers.iter().enumerate();
        layers.reduce(|best, layer| if layer.1.mean > best.1.mean { layer } else { best }).map(|(layer, _)| layer)
    }
}

impl Average {
    /// Averages facts that were traced alike.
    pub fn of(facts: &[FactTrace]) -> Self {
        let totals: Vec<f64> = facts.iter().map(|fact| fact.clean - fact.corrupted).collect();
        let kinds = facts.first().map_or(&[][..], |fact| &fact.panels);
        let panels = kinds.iter().enumerate().map(|(number, panel)| PanelAverage {
            restored: panel.restored,
            window: panel.window,
            classes: TokenClass::ALL.into_iter().filter_map(|class| Some((class, class_effects(facts, number, class)?))).collect(),
        });
        Self { facts: facts.len(), total_effect: MeanEffect::of(&totals), panels: panels.collect() }
    }
}

fn class_effects(facts: &[FactTrace], panel: usize, class: TokenClass) -> Option<ClassEffects> {
    // One row of layers for each fact that has the class.
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for fact in facts {
        let probabilities = &fact.panels.get(panel)?.probabilities;
        let tokens: Vec<&Vec<f64>> =
            probabilities.iter().enumerate().filter(|(token, _)| TokenClass::of(*token, fact) == Some(class)).map(|(_, row)| row).collect();
        let Some(first) = tokens.first() else { continue };
        let effect = |layer: usize| mean(&tokens.iter().filter_map(|row| row.get(layer)).copied().collect::<Vec<_>>()) - fact.corrupted;
        rows.push((0..first.len()).map(effect).collect());
    }
    let layers = rows.first()?.len();
    let layer = |layer: usize| MeanEffect::of(&rows.iter().filter_map(|row| row.get(layer)).copied().collect::<Vec<_>>());
    Some(ClassEffects { facts: rows.len(), layers: (0..layers).map(layer).collect() })
}

/// The 97.5 % quantile of Student's t with `freedom` degrees of freedom: half of a 95 % interval in standard errors.
fn student_t(freedom: usize) -> f64 {
    const EXACT: [f64; 10] = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281];
    if let Some(exact) = freedom.checked_sub(1).and_then(|index| EXACT.get(index)) {
        return *exact;
    }
    // The normal quantile with Cornish and Fisher's corrections (Abramowitz and Stegun 26.7.5).
    let (z, n): (f64, f64) = (1.959_964, freedom.max(1) as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + first / n + second / n.powi(2) + third / n.powi(3)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Panel;

    /// A fact of `tokens` tokens with a subject, whose probabilities are `cell(token, layer)`.
    pub(crate) fn fact(
        tokens: usize,
        subject: std::ops::Range<usize>,
        restored: Restored,
        cell: impl Fn(usize, usize) -> f64,
    ) -> FactTrace {
        let probabilities = (0..tokens).map(|token| (0..4).map(|layer| cell(token, layer)).collect()).collect();
        FactTrace {
            case_id: 0,
            prompt: "prompt".into(),
            subject: "subject".into(),
            answer: " answer".into(),
            answer_id: 1,
            tokens: (0..tokens).map(|token| format!("t{token}")).collect(),
            subject_tokens: subject,
            clean: 0.9,
            corrupted: 0.1,
            panels: vec![Panel { restored, window: 1, probabilities }],
        }
    }

    #[test]
    fn every_token_from_the_subject_on_has_one_role() {
        use TokenClass::{FirstSubject, FirstSubsequent, FurtherSubsequent, Last, LastSubject, MiddleSubject};
        let roles = |tokens: usize, subject: std::ops::Range<usize>| -> Vec<Option<TokenClass>> {
            let fact = fact(tokens, subject, Restored::Mlp, |_, _| 0.0);
            (0..tokens).map(|token| TokenClass::of(token, &fact)).collect()
        };
        let long =
            [None, Some(FirstSubject), Some(MiddleSubject), Some(LastSubject), Some(FirstSubsequent), Some(FurtherSubsequent), Some(Last)];
        assert_eq!(roles(7, 1..4), long);
        assert_eq!(roles(3, 0..1), [Some(LastSubject), Some(FirstSubsequent), Some(Last)]);
        assert_eq!(roles(2, 0..1), [Some(LastSubject), Some(Last)]);
        assert_eq!(roles(2, 0..2), [Some(FirstSubject), Some(LastSubject)]);
    }

    #[test]
    fn a_fact_counts_once_for_a_role_and_the_interval_is_over_facts() {
        // Two middle tokens with effects 0.1 and 0.3 in the first fact, one with 0.4 in the second, none in the third.
        let facts = [
            fact(6, 0..4, Restored::Mlp, |token, _| 0.1 + [0.0, 0.1, 0.3, 0.0, 0.0, 0.0][token]),
            fact(5, 0..3, Restored::Mlp, |token, _| 0.1 + if token == 1 { 0.4 } else { 0.0 }),
            fact(4, 0..2, Restored::Mlp, |_, layer| 0.1 + 0.1 * layer as f64),
        ];
        let average = Average::of(&facts);
        assert!((average.total_effect.mean - 0.8).abs() < 1e-12 && average.total_effect.interval.unwrap() < 1e-9);
        let middle = &average.panels[0].classes[&TokenClass::MiddleSubject];
        assert_eq!(middle.facts, 2);
        let effect = middle.layers[2];
        // Values 0.2 and 0.4: mean 0.3, standard error 0.1, one degree of freedom.
        assert!((effect.mean - 0.3).abs() < 1e-12 && (effect.interval.unwrap() - 1.27062).abs() < 1e-9);
        assert_eq!(average.panels[0].classes[&TokenClass::LastSubject].peak(), Some(3));
        assert_eq!(Average::of(&facts[..1]).panels[0].classes[&TokenClass::Last].layers[0].interval, None);
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, want) in [(1, 12.706), (9, 2.262), (11, 2.201), (20, 2.086), (60, 2.000), (1000, 1.962)] {
            assert!((student_t(freedom) - want).abs() < 1e-3, "{freedom}: {}", student_t(freedom));
        }
    }
}
