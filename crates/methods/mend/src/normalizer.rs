use std::collections::BTreeMap;

use easyedit_core::{Error, HostTensor, Result};

/// Added to a deviation before it divides.
const EPSILON: f32 = 1e-7;

/// Mean and deviation of the tokens that a transform has seen in training, number by number, of x and δ together.
///
/// # Source
///
/// Mitchell et al. 2022, section 3.2; batches are merged as Chan, Golub and LeVeque 1979 do it, which is Welford's token by token up to rounding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Normalizer {
    /// Tokens seen.
    tokens: u64,
    x: Moments,
    delta: Moments,
}

/// Mean and sum of squared differences from it.
#[derive(Clone, Debug, PartialEq)]
struct Moments {
    mean: Vec<f32>,
    squares: Vec<f32>,
}

impl Moments {
    fn new(width: usize) -> Self {
        Self { mean: vec![0.0; width], squares: vec![0.0; width] }
    }

    /// Takes in the rows `values` behind `before` others.
    fn add(&mut self, values: &[f32], before: u64) {
        let width = self.mean.len().max(1);
        let rows = (values.len() / width) as f64;
        if rows == 0.0 {
            return;
        }
        let (mut mean, mut squares) = (vec![0f64; width], vec![0f64; width]);
        for row in values.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) / rows);
        }
        for row in values.chunks_exact(width) {
            let differences = row.iter().zip(&mean).map(|(value, mean)| f64::from(*value) - mean);
            squares.iter_mut().zip(differences).for_each(|(sum, difference)| *sum += difference * difference);
        }
        let (before, total) = (before as f64, before as f64 + rows);
        let known = self.mean.iter_mut().zip(&mut self.squares);
        for ((known_mean, known_squares), (mean, squares)) in known.zip(mean.into_iter().zip(squares)) {
            let shift = mean - f64::from(*known_mean);
            *known_squares = (f64::from(*known_squares) + squares + shift * shift * before * rows / total) as f32;
            *known_mean = (f64::from(*known_mean) + shift * rows / total) as f32;
        }
    }

    fn deviations(&self, tokens: u64) -> Vec<f32> {
        self.squares.iter().map(|squares| (f64::from(*squares) / (tokens - 1) as f64).sqrt() as f32).collect()
    }
}

impl Normalizer {
    /// Of tokens with x of width `d_in` and δ of width `d_out`, none of which was seen yet.
    pub(crate) fn new([d_in, d_out]: [usize; 2]) -> Self {
        Self { tokens: 0, x: Moments::new(d_in), delta: Moments::new(d_out) }
    }

    /// Takes in tokens; `x` and `delta` are row-major.
    pub(crate) fn add(&mut self, x: &[f32], delta: &[f32]) {
        let tokens = (x.len() / self.x.mean.len().max(1)) as u64;
        self.x.add(x, self.tokens);
        self.delta.add(delta, self.tokens);
        self.tokens += tokens;
    }

    /// Normalises tokens in place.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if fewer than two tokens were seen: the deviation is unknown.
    pub(crate) fn apply(&self, x: &mut [f32], delta: &mut [f32]) -> Result<()> {
        if self.tokens < 2 {
            return Err(Error::hparams("the network has seen no edits: train it, or give the archive of a trained one"));
        }
        for (values, moments) in [(x, &self.x), (delta, &self.delta)] {
            let deviations = moments.deviations(self.tokens);
            for row in values.chunks_exact_mut(moments.mean.len().max(1)) {
                let statistics = moments.mean.iter().zip(&deviations);
                row.iter_mut().zip(statistics).for_each(|(value, (mean, deviation))| *value = (*value - mean) / (deviation + EPSILON));
            }
        }
        Ok(())
    }

    /// The statistics by their names in the reference.
    pub(crate) fn state(&self) -> Vec<(&'static str, HostTensor)> {
        let deviations =
            |moments: &Moments| if self.tokens < 2 { vec![f32::MAX; moments.mean.len()] } else { moments.deviations(self.tokens) };
        let vector = HostTensor::vector;
        vec![
            ("u_mean", vector(self.x.mean.clone())),
            ("v_mean", vector(self.delta.mean.clone())),
            ("u_std", vector(deviations(&self.x))),
            ("v_std", vector(deviations(&self.delta))),
            ("u_s", vector(self.x.squares.clone())),
            ("v_s", vector(self.delta.squares.clone())),
            ("k", vector(vec![self.tokens as f32])),
        ]
    }

    /// Takes over statistics whose names begin with `prefix`. Where only deviations are given, the sums of squares follow from them.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] naming what is missing or misshapen.
    pub(crate) fn load(&mut self, prefix: &str, state: &BTreeMap<String, HostTensor>) -> Result<()> {
        let vector = |name: &str, width: usize| -> Result<Vec<f32>> {
            let full = format!("{prefix}{name}");
            let tensor = state.get(&full).ok_or_else(|| Error::tensor(&full, "is missing from the trained file"))?;
            match tensor.values().len() == width {
                true => Ok(tensor.values().to_vec()),
                false => Err(Error::tensor(&full, format!("has {} numbers instead of {width}", tensor.values().len()))),
            }
        };
        let tokens = vector("k", 1)?.first().copied().unwrap_or(0.0);
        if !(tokens >= 0.0 && tokens.is_finite()) {
            return Err(Error::tensor(format!("{prefix}k"), format!("is {tokens}; it counts tokens")));
        }
        self.tokens = tokens as u64;
        for (moments, [mean, squares, deviation]) in
            [(&mut self.x, ["u_mean", "u_s", "u_std"]), (&mut self.delta, ["v_mean", "v_s", "v_std"])]
        {
            let width = moments.mean.len();
            moments.mean = vector(mean, width)?;
            moments.squares = if state.contains_key(&format!("{prefix}{squares}")) {
                vector(squares, width)?
            } else {
                let factor = self.tokens.saturating_sub(1) as f32;
                vector(deviation, width)?.iter().map(|deviation| deviation * deviation * factor).collect()
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Welford's recurrence, token by token, in f64.
    fn token_by_token(rows: &[[f64; 2]]) -> ([f64; 2], [f64; 2]) {
        let (mut mean, mut squares) = ([0f64; 2], [0f64; 2]);
        for (seen, row) in rows.iter().enumerate() {
            for place in 0..2 {
                let old = mean[place];
                mean[place] += (row[place] - old) / (seen + 1) as f64;
                squares[place] += (row[place] - old) * (row[place] - mean[place]);
            }
        }
        (mean, squares.map(|squares| (squares / (rows.len() - 1) as f64).sqrt()))
    }

    #[test]
    fn merged_statistics_are_those_token_by_token() {
        let rows: Vec<[f64; 2]> = (0..40).map(|n| [f64::from(n * n % 17) - 3.0, 100.0 + f64::from(n * 7 % 5)]).collect();
        let flat = |rows: &[[f64; 2]]| rows.iter().flatten().map(|v| *v as f32).collect::<Vec<f32>>();
        let mut normalizer = Normalizer::new([2, 2]);
        for part in [&rows[..1], &rows[1..1], &rows[1..18], &rows[18..]] {
            normalizer.add(&flat(part), &flat(part));
        }
        let (mean, deviation) = token_by_token(&rows);
        for place in 0..2 {
            assert!((f64::from(normalizer.x.mean[place]) / mean[place] - 1.0).abs() < 1e-6);
            assert!((f64::from(normalizer.delta.deviations(40)[place]) / deviation[place] - 1.0).abs() < 1e-6);
        }
        let (mut x, mut delta) = (flat(&rows), flat(&rows));
        normalizer.apply(&mut x, &mut delta).unwrap();
        assert!(x.iter().step_by(2).sum::<f32>().abs() < 1e-4 && x == delta);
    }

    #[test]
    fn statistics_are_kept_and_unseen_ones_refused() {
        let mut normalizer = Normalizer::new([1, 1]);
        assert!(normalizer.apply(&mut [1.0], &mut [1.0]).unwrap_err().to_string().contains("archive"));
        normalizer.add(&[1.0, 3.0], &[5.0, 9.0]);
        let mut state: BTreeMap<String, HostTensor> = normalizer.state().into_iter().map(|(n, t)| (format!("a.{n}"), t)).collect();
        let mut loaded = Normalizer::new([1, 1]);
        loaded.load("a.", &state).unwrap();
        assert_eq!(loaded, normalizer);
        state.remove("a.u_s");
        loaded.load("a.", &state).unwrap();
        assert!((loaded.x.squares[0] - normalizer.x.squares[0]).abs() < 1e-6);
        assert!(loaded.load("b.", &state).unwrap_err().to_string().contains("b.k"));
        assert!(Normalizer::new([2, 1]).load("a.", &state).unwrap_err().to_string().contains("a.u_mean"));
    }
}
