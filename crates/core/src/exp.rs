/// `exp` of numbers that are not above 0, to about two units in the last place; below -87 it is that of -87. NaN stays NaN.
///
/// # Source
///
/// The reduction and polynomial of Moshier's Cephes library, `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and taking away this number rounds to a whole one; its low bits then hold that number.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r + 0.5;
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (p * r * r + r + 1.0) * two_to_n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_units() {
        for i in -8700..=0 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 4e-7, "exp({x})");
        }
        assert!(exp(f32::NAN).is_nan() && exp(-1e30) < 1e-37);
        assert_eq!(exp(0.0), 1.0);
    }
}
