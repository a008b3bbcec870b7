//! Scaled rotary embeddings: what GGUF says about them, as Hugging Face's `rope_scaling`.

use serde_json::{Value, json};

use super::reader::Gguf;
use crate::{Error, Result};

/// Llama 3's constants; GGUF keeps only the factors that come of them.
const LOW_FREQUENCY: f64 = 1.0;
const HIGH_FREQUENCY: f64 = 4.0;
const TRAINED_CONTEXT: f64 = 8192.0;

/// The tensor of factors that each rotary frequency is divided by.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// `rope_scaling` of `config.json`; `None` if frequencies are not scaled.
pub(super) fn rope_scaling(file: &Gguf, theta: f64, head_dim: usize) -> Result<Option<Value>> {
    let kind = file.text("llama.rope.scaling.type")?.unwrap_or("none");
    let factor = file.number("llama.rope.scaling.factor")?;
    if file.tensor(FACTORS).is_some() {
        return from_factors(file, theta, head_dim);
    }
    match (kind, factor) {
        ("none", _) => Ok(None),
        ("linear", Some(factor)) if factor > 0.0 => Ok((factor != 1.0).then(|| json!({"rope_type": "linear", "factor": factor}))),
        ("linear", _) => Err(Error::format(file.path(), "key llama.rope.scaling.factor should be a positive number")),
        (other, _) => Err(Error::Unsupported(format!(
            "{}: rotary scaling {other:?} of a GGUF file is not supported; use the model's Hugging Face folder",
            file.path().display()
        ))),
    }
}

fn from_factors(file: &Gguf, theta: f64, head_dim: usize) -> Result<Option<Value>> {
    let factors = file.values(FACTORS)?;
    let largest = factors.iter().copied().fold(1.0, f32::max);
    if factors.len() != head_dim / 2 {
        return Err(Error::tensor(FACTORS, file.path(), format!("has {} numbers, not half the head size {head_dim}", factors.len())));
    }
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(None);
    }
    let expected = llama3_factors(f64::from(largest), theta, head_dim);
    if !factors.iter().zip(expected).all(|(have, want)| (f64::from(*have) - want).abs() <= 1e-3 * want) {
        return Err(Error::Unsupported(format!(
            "tensor {FACTORS} in {}: these frequency factors are not Llama 3's; use the model's Hugging Face folder",
            file.path().display()
        )));
    }
    Ok(Some(json!({
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": LOW_FREQUENCY,
        "high_freq_factor": HIGH_FREQUENCY,
        "original_max_position_embeddings": TRAINED_CONTEXT as u64,
    })))
}

/// What Llama 3 divides each frequency by: 1 for short waves, `factor` for long ones, and a ramp between.
fn llama3_factors(factor: f64, theta: f64, head_dim: usize) -> impl Iterator<Item = f64> {
    (0..head_dim / 2).map(move |i| {
        let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / head_dim as f64);
        let ramp = (TRAINED_CONTEXT / wavelength - LOW_FREQUENCY) / (HIGH_FREQUENCY - LOW_FREQUENCY);
        let ramp = ramp.clamp(0.0, 1.0);
        1.0 / ((1.0 - ramp) / factor + ramp)
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_file::TestFile;
    use super::*;

    fn scaling(file: TestFile) -> Result<Option<Value>> {
        let (_dir, path) = file.write();
        rope_scaling(&Gguf::open(&path).unwrap(), 500_000.0, 128)
    }

    #[test]
    fn llama_3_is_recognised_by_its_factors() {
        let factors: Vec<f32> = llama3_factors(8.0, 500_000.0, 128).map(|f| f as f32).collect();
        assert_eq!((factors[0], factors[63]), (1.0, 8.0));
        // Wave 30 is 2950 long: (8192 / 2950 - 1) / 3 = 0.592, and 1 / (0.408 / 8 + 0.592) = 1.555.
        assert!((factors[30] - 1.555).abs() < 2e-2, "{}", factors[30]);
        let value = scaling(TestFile::new().f32s(FACTORS, &[64], &factors)).unwrap().unwrap();
        assert_eq!((value["rope_type"].as_str(), value["factor"].as_f64()), (Some("llama3"), Some(8.0)));
        assert_eq!(scaling(TestFile::new().f32s(FACTORS, &[64], &[1.0; 64])).unwrap(), None);
    }

    #[test]
    fn other_scalings() {
        assert_eq!(scaling(TestFile::new()).unwrap(), None);
        let linear = TestFile::new().text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0);
        assert_eq!(scaling(linear).unwrap().unwrap()["factor"].as_f64(), Some(4.0));
        let mut odd = [1.0; 64];
        odd[40] = 3.0;
        for (file, part) in [
            (TestFile::new().f32s(FACTORS, &[64], &odd), "not Llama 3's"),
            (TestFile::new().f32s(FACTORS, &[2], &[1.0, 2.0]), "half the head size"),
            (TestFile::new().text("llama.rope.scaling.type", "yarn"), "yarn"),
            (TestFile::new().text("llama.rope.scaling.type", "linear"), "positive"),
        ] {
            let message = scaling(file).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
