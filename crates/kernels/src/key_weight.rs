//! The weight of what is kept against the keys of new facts.

use easyedit_core::{Error, Result};
use faer::{Mat, Side};

use crate::parallelism::fix_parts;

/// Eigenvalues below this share of the largest count as zero: they belong to keys that repeat one another.
const NEGLIGIBLE: f64 = 1e-9;
/// Bisections of the weight; each halves what is left of its logarithm's range.
const BISECTIONS: usize = 60;

/// The weight w in `(w A + K Kᵀ) X = K`, where A stands for what is kept: a number, or what writes a wanted share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyWeight {
    /// This weight.
    Fixed(f64),
    /// The weight with which this share of the residuals is written in the mean; above 0 and below 1.
    ForShare(f64),
}

impl KeyWeight {
    /// The weight that hyperparameters ask for: `fixed` if they name one, else by rule for `share`.
    pub fn of(fixed: Option<f64>, share: f64) -> Self {
        fixed.map_or(Self::ForShare(share), Self::Fixed)
    }

    /// The weight as a number for keys with `gram` = Kᵀ A⁻¹ K.
    ///
    /// With the weight w, a direction in which the Gram matrix has the eigenvalue m is written with the share m / (m + w). The rule takes the w
    /// at which these shares have the wanted mean; directions that the keys do not span are left out. For a single key this is
    /// w = m (1 - share) / share, exactly.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] naming `what` if the eigenvalues cannot be computed.
    pub(crate) fn resolve(self, gram: &Mat<f64>, what: &str) -> Result<f64> {
        let share = match self {
            Self::Fixed(weight) => return Ok(weight),
            Self::ForShare(share) => share,
        };
        if (0..gram.ncols()).any(|c| (0..gram.nrows()).any(|r| !gram[(r, c)].is_finite())) {
            return Err(Error::NotFinite(format!("{what} are not finite")));
        }
        fix_parts();
        let eigenvalues = gram
            .self_adjoint_eigenvalues(Side::Lower)
            .map_err(|error| Error::NotFinite(format!("the eigenvalues of the products of {what} cannot be computed: {error:?}")))?;
        Ok(weight_for(&eigenvalues, share))
    }
}

/// The w at which the mean of m / (m + w) over the eigenvalues m is `share`; 1 if all of them are zero, where no weight writes anything.
fn weight_for(eigenvalues: &[f64], share: f64) -> f64 {
    let largest = eigenvalues.iter().copied().fold(0.0, f64::max);
    let spanned: Vec<f64> = eigenvalues.iter().copied().filter(|m| *m > NEGLIGIBLE * largest).collect();
    let Some(smallest) = spanned.iter().copied().reduce(f64::min) else { return 1.0 };
    let odds = (1.0 - share) / share;
    let mean = |weight: f64| spanned.iter().map(|m| m / (m + weight)).sum::<f64>() / spanned.len() as f64;
    // At the lower end every share is at least the wanted one, at the upper end none is above it.
    let (mut low, mut high) = ((smallest * odds).ln(), (largest * odds).ln());
    for _ in 0..BISECTIONS {
        let middle = 0.5 * (low + high);
        if mean(middle.exp()) >= share {
            low = middle;
        } else {
            high = middle;
        }
    }
    low.exp()
}

/// A weight of hyperparameters that a rule chooses unless a file names a number; for `#[serde(default, with = "easyedit_kernels::auto_or_number")]`.
/// `None` is written `auto`.
pub mod auto_or_number {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Text(String),
    }

    /// Reads `auto`, or a number that may be quoted.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        match Written::deserialize(deserializer).map_err(|_| de::Error::custom("expected a number or auto"))? {
            Written::Number(value) => Ok(Some(value)),
            Written::Text(text) if text.trim().eq_ignore_ascii_case("auto") => Ok(None),
            Written::Text(text) => {
                text.trim().parse().map(Some).map_err(|_| de::Error::custom(format!("{text:?} is neither a number nor auto")))
            }
        }
    }

    /// Writes the number, or `auto`.
    ///
    /// # Errors
    ///
    /// As the serializer.
    #[allow(clippy::ref_option, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_f64(*value),
            None => serializer.serialize_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[test]
    fn the_mean_share_is_the_wanted_one() {
        for eigenvalues in [&[3.0][..], &[1e-4, 2.0, 50.0], &[1.0; 7], &[0.0, 0.0, 4.0, 9.0]] {
            for share in [0.05, 0.5, 0.9, 0.999] {
                let weight = weight_for(eigenvalues, share);
                let spanned: Vec<f64> = eigenvalues.iter().copied().filter(|m| *m > 0.0).collect();
                let mean = spanned.iter().map(|m| m / (m + weight)).sum::<f64>() / spanned.len() as f64;
                assert!((mean - share).abs() < 1e-9, "{eigenvalues:?}: {mean} instead of {share}");
            }
        }
        assert!((weight_for(&[8.0], 0.8) - 2.0).abs() < 1e-9);
        assert_eq!(weight_for(&[0.0, 0.0], 0.9), 1.0);
    }

    #[test]
    fn keys_that_are_not_finite_are_named() {
        let gram = Mat::from_fn(2, 2, |_, _| f64::NAN);
        let error = KeyWeight::ForShare(0.9).resolve(&gram, "the keys of layer 3").unwrap_err().to_string();
        assert!(error.contains("the keys of layer 3"), "{error}");
    }

    #[test]
    fn a_weight_is_a_number_or_auto() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Demo {
            #[serde(default, with = "auto_or_number")]
            weight: Option<f64>,
        }
        let read = |text: &str| serde_json::from_str::<Demo>(text).map(|demo| demo.weight).map_err(|error| error.to_string());
        assert_eq!(read("{}"), Ok(None));
        for (text, weight) in [("\"auto\"", None), ("15000", Some(15000.0)), ("\"1.5e4\"", Some(15000.0))] {
            assert_eq!(read(&format!("{{\"weight\": {text}}}")), Ok(weight));
        }
        assert!(read("{\"weight\": \"much\"}").unwrap_err().contains("neither a number nor auto"));
        assert_eq!(serde_json::to_string(&Demo { weight: None }).unwrap(), "{\"weight\":\"auto\"}");
        assert_eq!(serde_json::to_string(&Demo { weight: Some(2.0) }).unwrap(), "{\"weight\":2.0}");
    }
}
