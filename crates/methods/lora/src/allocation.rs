//! AdaLoRA's budget: which triplets are kept.

/// How many triplets are kept at which step, of `total` steps counted from 1.
///
/// # Source
///
/// Zhang et al. 2023, equation 12: the initial budget, then a cubic fall, then the target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) total: usize,
    /// Steps with the initial budget.
    pub(crate) initial: usize,
    /// Steps with the target budget.
    pub(crate) last: usize,
    /// Steps between prunings.
    pub(crate) every: usize,
    /// Triplets in the beginning.
    pub(crate) from: usize,
    /// Triplets at the end.
    pub(crate) to: usize,
}

/// What becomes of the triplets after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pruning {
    /// Nothing.
    None,
    /// This many are kept; the others start from 0 again and may come back.
    Budget(usize),
    /// This many are kept from now on.
    Final(usize),
}

impl Schedule {
    /// The first step with the target budget.
    pub(crate) fn settled(&self) -> usize {
        self.total.saturating_sub(self.last).max(1)
    }

    /// Whether step `step` has the target budget.
    pub(crate) fn is_settled(&self, step: usize) -> bool {
        step >= self.settled()
    }

    pub(crate) fn after(&self, step: usize) -> Pruning {
        if step == self.settled() {
            return Pruning::Final(self.to);
        }
        if step <= self.initial || step > self.settled() || !step.is_multiple_of(self.every) {
            return Pruning::None;
        }
        let left = 1.0 - (step - self.initial) as f64 / (self.settled() - self.initial) as f64;
        Pruning::Budget(self.to + ((self.from - self.to) as f64 * left.powi(3)).round() as usize)
    }
}

/// Importance of the numbers of one factor, smoothed over the steps: sensitivity times uncertainty.
///
/// # Source
///
/// Zhang et al. 2023, equations 8 to 11.
#[derive(Clone, Debug)]
pub(crate) struct Importance {
    sensitivity: Vec<f64>,
    uncertainty: Vec<f64>,
}

impl Importance {
    pub(crate) fn new(count: usize) -> Self {
        Self { sensitivity: vec![0.0; count], uncertainty: vec![0.0; count] }
    }

    /// Takes in a step's values and gradients.
    pub(crate) fn see(&mut self, values: &[f64], gradient: &[f64], betas: [f64; 2]) {
        let smoothed = self.sensitivity.iter_mut().zip(&mut self.uncertainty);
        for ((value, gradient), (sensitivity, uncertainty)) in values.iter().zip(gradient).zip(smoothed) {
            let now = (value * gradient).abs();
            *sensitivity = betas[0] * *sensitivity + (1.0 - betas[0]) * now;
            *uncertainty = betas[1] * *uncertainty + (1.0 - betas[1]) * (now - *sensitivity).abs();
        }
    }

    /// The mean score of each of `rank` vectors that stand one behind the other.
    pub(crate) fn scores(&self, rank: usize) -> Vec<f64> {
        let width = (self.sensitivity.len() / rank.max(1)).max(1);
        let scores: Vec<f64> = self.sensitivity.iter().zip(&self.uncertainty).map(|(s, u)| s * u).collect();
        scores.chunks(width).map(|vector| vector.iter().sum::<f64>() / width as f64).collect()
    }
}

/// Which of the triplets with these scores (one list per weight) are the `budget` best of all; of equals the first.
pub(crate) fn best(scores: &[Vec<f64>], budget: usize) -> Vec<Vec<bool>> {
    let mut order: Vec<(usize, usize)> =
        scores.iter().enumerate().flat_map(|(weight, scores)| (0..scores.len()).map(move |triplet| (weight, triplet))).collect();
    // The sort is stable.
    order.sort_by(|a, b| scores[b.0][b.1].total_cmp(&scores[a.0][a.1]));
    let mut kept: Vec<Vec<bool>> = scores.iter().map(|scores| vec![false; scores.len()]).collect();
    for (weight, triplet) in order.into_iter().take(budget) {
        kept[weight][triplet] = true;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_falls_from_the_first_to_the_last() {
        let schedule = Schedule { total: 20, initial: 3, last: 5, every: 2, from: 60, to: 40 };
        assert_eq!((schedule.after(2), schedule.after(5), schedule.after(6)), (Pruning::None, Pruning::None, Pruning::Budget(48)));
        let budgets: Vec<usize> =
            (1..=20).filter_map(|step| if let Pruning::Budget(b) = schedule.after(step) { Some(b) } else { None }).collect();
        assert!(budgets.windows(2).all(|pair| pair[0] >= pair[1]) && budgets.iter().all(|b| (40..=60).contains(b)), "{budgets:?}");
        assert_eq!(schedule.after(15), Pruning::Final(40));
        assert_eq!((schedule.after(16), schedule.is_settled(14), schedule.is_settled(15)), (Pruning::None, false, true));
        let single = Schedule { total: 1, initial: 0, last: 0, ..schedule };
        assert_eq!(single.after(1), Pruning::Final(40));
    }

    #[test]
    fn the_best_of_all_weights_are_kept() {
        let kept = best(&[vec![0.1, 0.5], vec![0.4, 0.5, 0.0]], 3);
        assert_eq!(kept, [vec![false, true], vec![true, true, false]]);
        assert_eq!(best(&[vec![0.0, 0.0], vec![0.0]], 2), [vec![true, true], vec![false]]);
    }

    #[test]
    fn importance_is_smoothed_sensitivity_times_uncertainty() {
        let mut importance = Importance::new(2);
        importance.see(&[2.0, -1.0], &[3.0, 0.0], [0.85, 0.85]);
        let (sensitivity, uncertainty): (f64, f64) = (0.15 * 6.0, 0.15 * (6.0 - 0.9));
        assert!((importance.scores(2)[0] - sensitivity * uncertainty).abs() < 1e-12);
        assert!((importance.scores(1)[0] - sensitivity * uncertainty / 2.0).abs() < 1e-12);
        importance.see(&[2.0, -1.0], &[0.0, 0.0], [0.85, 0.85]);
        let (sensitivity, uncertainty) = (0.85 * sensitivity, 0.85 * uncertainty + 0.15 * 0.85 * sensitivity);
        assert!((importance.scores(2)[0] - sensitivity * uncertainty).abs() < 1e-12);
    }
}
