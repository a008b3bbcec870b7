//! Elementwise functions of tensors on the CPU in one vectorised pass over all cores.
//!
//! The CPU backend computes `exp` one number at a time on one core, and a composed function in one pass per operation, each way. Here
//! value and slope come from one pass, and a tracked result enters the graph as the tangent at that point: the value and the
//! first-order gradient are those of the function, and the way back is one product.

use burn::tensor::{Tensor, TensorData};
use easyedit_core::device::is_cpu;
use rayon::prelude::*;

/// Numbers per task: enough to pay for handing it to another core.
const CHUNK: usize = 1 << 13;

/// `f` of every element, where `f` gives value and slope; `None` on devices other than the CPU.
pub(crate) fn unary(x: &Tensor<2>, f: impl Fn(f32) -> (f32, f32) + Sync) -> Option<Tensor<2>> {
    let input = host_data(x)?;
    let input = input.as_slice::<f32>().ok()?;
    let mut value = vec![0f32; input.len()];
    if !x.is_autodiff() {
        let chunks = value.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
        chunks.for_each(|(value, input)| value.iter_mut().zip(input).for_each(|(v, x)| *v = f(*x).0));
        return Some(like(x, value));
    }
    // Tangent: offset + slope · x.
    let mut slope = vec![0f32; input.len()];
    let chunks = value.par_chunks_mut(CHUNK).zip(slope.par_chunks_mut(CHUNK)).zip(input.par_chunks(CHUNK));
    chunks.for_each(|((offset, slope), input)| {
        for ((offset, slope), x) in offset.iter_mut().zip(slope).zip(input) {
            let (y, dy) = f(*x);
            (*offset, *slope) = (y - dy * x, dy);
        }
    });
    Some(x.clone() * Tensor::from_inner(like(x, slope)) + Tensor::from_inner(like(x, value)))
}

/// `f(gate) · up`, element by element; `None` on devices other than the CPU.
pub(crate) fn gated(gate: &Tensor<2>, up: &Tensor<2>, f: impl Fn(f32) -> (f32, f32) + Sync) -> Option<Tensor<2>> {
    let (gates, ups) = (host_data(gate)?, host_data(up)?);
    let (gates, ups) = (gates.as_slice::<f32>().ok()?, ups.as_slice::<f32>().ok()?);
    let mut value = vec![0f32; gates.len()];
    let inputs = gates.par_chunks(CHUNK).zip(ups.par_chunks(CHUNK));
    if !gate.is_autodiff() && !up.is_autodiff() {
        value.par_chunks_mut(CHUNK).zip(inputs).for_each(|(value, (gates, ups))| {
            value.iter_mut().zip(gates).zip(ups).for_each(|((v, g), u)| *v = f(*g).0 * u);
        });
        return Some(like(gate, value));
    }
    // Tangent: offset + by_gate · gate + by_up · up.
    let (mut by_gate, mut by_up) = (vec![0f32; gates.len()], vec![0f32; gates.len()]);
    let outputs = value.par_chunks_mut(CHUNK).zip(by_gate.par_chunks_mut(CHUNK)).zip(by_up.par_chunks_mut(CHUNK));
    outputs.zip(inputs).for_each(|(((offset, by_gate), by_up), (gates, ups))| {
        let outputs = offset.iter_mut().zip(by_gate).zip(by_up);
        for (((offset, by_gate), by_up), (g, u)) in outputs.zip(gates.iter().zip(ups)) {
            let (y, dy) = f(*g);
            (*offset, *by_gate, *by_up) = (-dy * u * g, dy * u, y);
        }
    });
    let constant = |values| Tensor::from_inner(like(gate, values));
    Some(gate.clone() * constant(by_gate) + up.clone() * constant(by_up) + constant(value))
}

/// `x σ(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// `x σ(1.702 x)`.
#[inline(always)]
pub(crate) fn quick_gelu(x: f32) -> (f32, f32) {
    let s = sigmoid(1.702 * x);
    (x * s, s * (1.0 + 1.702 * x * (1.0 - s)))
}

/// GELU by its tanh approximation: `x (1 + tanh u) / 2` is `x σ(2u)`.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> (f32, f32) {
    const ROOT: f32 = 1.595_769; // 2 √(2/π)
    let s = sigmoid(ROOT * (x + 0.044715 * x * x * x));
    (x * s, s * (1.0 + x * (1.0 - s) * ROOT * (1.0 + 3.0 * 0.044715 * x * x)))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `exp` to about two units in the last place, in operations that a compiler turns into vector instructions; arguments beyond ±87 are
/// taken for ±87, where a sigmoid is 0 or 1. NaN stays NaN.
///
/// # Source
///
/// The reduction and polynomial of Moshier's Cephes library, `expf`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and taking away this number rounds to a whole one; its low bits then hold that number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r + 0.5;
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (p * r * r + r + 1.0) * two_to_n
}

fn host_data(x: &Tensor<2>) -> Option<TensorData> {
    if !is_cpu(&x.device()) {
        return None;
    }
    let plain = if x.is_autodiff() { x.clone().inner() } else { x.clone() };
    plain.try_into_data().ok()
}

fn like(x: &Tensor<2>, values: Vec<f32>) -> Tensor<2> {
    let device = if x.is_autodiff() { x.device().inner() } else { x.device() };
    Tensor::from_data(TensorData::new(values, x.dims()), &device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_units() {
        for i in -8700..=8700 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 4e-7, "exp({x})");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(1e9).is_finite() && exp(-1e9) > 0.0);
    }

    #[test]
    fn slopes_are_those_of_the_functions() {
        for f in [silu, quick_gelu, gelu_tanh] {
            for i in -60..=60 {
                let x = i as f32 / 10.0;
                let numeric = (f(x + 1e-2).0 - f(x - 1e-2).0) / 2e-2;
                assert!((f(x).1 - numeric).abs() < 2e-3, "at {x}: {} and {numeric}", f(x).1);
            }
        }
    }

    #[test]
    fn tracked_results_have_value_and_gradient_of_the_function() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let tensor = |values: [f32; 3]| Tensor::<2>::from_floats([values], &device);
        let (gate, up) = ([-1.5, 0.2, 3.0], [0.5, -2.0, 1.0]);
        let values = |t: Tensor<2>| t.try_into_data().unwrap().try_to_vec::<f32>().unwrap();
        let plain = values(gated(&tensor(gate), &tensor(up), silu).unwrap());
        let (g, u) = (Tensor::from_inner(tensor(gate)).require_grad(), Tensor::from_inner(tensor(up)).require_grad());
        let tracked = gated(&g, &u, silu).unwrap();
        let gradients = tracked.clone().sum().backward();
        let (by_gate, by_up) = (values(g.grad(&gradients).unwrap()), values(u.grad(&gradients).unwrap()));
        for (i, value) in values(tracked.inner()).into_iter().enumerate() {
            assert!((value - plain[i]).abs() < 1e-6 && (plain[i] - silu(gate[i]).0 * up[i]).abs() < 1e-6);
            assert!((by_gate[i] - silu(gate[i]).1 * up[i]).abs() < 1e-6 && (by_up[i] - silu(gate[i]).0).abs() < 1e-6);
        }
        let x = Tensor::from_inner(tensor(gate)).require_grad();
        let tracked = unary(&x, gelu_tanh).unwrap();
        let slope = values(x.grad(&tracked.clone().sum().backward()).unwrap());
        for (i, value) in values(tracked.inner()).into_iter().enumerate() {
            assert!((value - gelu_tanh(gate[i]).0).abs() < 1e-6 && (slope[i] - gelu_tanh(gate[i]).1).abs() < 1e-6);
        }
    }
}
