//! How long the hot path of value optimisation takes on a model of SmolLM2-135M's shape; run with `--ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Instant;

use burn::tensor::Tensor;
use easyedit_core::{Pass, TokenBatch};
use easyedit_models::tiny::tiny_model_from;
use serde_json::json;

#[test]
#[ignore = "a measurement, not a check"]
fn forward_and_backward_of_26_layers() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let config = json!({
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "rope_theta": 100000.0, "max_position_embeddings": 2048,
        "tie_word_embeddings": true,
    });
    let model = tiny_model_from(config, 0, &device).unwrap();
    let row = |length: u32, start: u32| (start..start + length).collect::<Vec<u32>>();
    let prefixes: Vec<Vec<u32>> = (0..12).map(|r| row(6 + r, r * 20)).collect();
    let mut first = Pass::new(TokenBatch::new(&prefixes).unwrap(), &device).keeping();
    model.hidden(&mut first, &mut ()).unwrap();
    let cache = first.into_cache().unwrap();
    for ragged in [false, true] {
        let suffixes: Vec<Vec<u32>> = (0..12).map(|r| row(if ragged && r == 11 { 3 } else { 7 }, r * 50)).collect();
        let pass = Pass::after(TokenBatch::new(&suffixes).unwrap(), cache.clone(), &device).unwrap();
        let tokens = pass.batch().tokens();
        let start = model.run_layers(model.embed(&pass).unwrap(), 0..4, &mut pass.clone(), &mut ()).unwrap();
        let last = pass.batch().last_indices();
        let mut best = [f64::INFINITY; 3];
        for _ in 0..15 {
            let clock = Instant::now();
            model.run_layers(start.clone(), 4..30, &mut pass.clone(), &mut ()).unwrap();
            best[0] = best[0].min(clock.elapsed().as_secs_f64());
            let delta = Tensor::<2>::zeros([1, 576], &device.clone().autodiff()).require_grad();
            let clock = Instant::now();
            let hidden = model.run_layers(start.clone() + delta.clone(), 4..30, &mut pass.clone(), &mut ()).unwrap();
            let loss = model.logits(hidden, &last).unwrap().sum();
            best[1] = best[1].min(clock.elapsed().as_secs_f64());
            let clock = Instant::now();
            let gradient = delta.grad(&loss.backward()).unwrap();
            best[2] = best[2].min(clock.elapsed().as_secs_f64());
            assert_eq!(gradient.dims(), [1, 576]);
        }
        let [plain, forward, backward] = best.map(|seconds| seconds * 1e3);
        println!(
            "{tokens} tokens (ragged: {ragged}): plain forward {plain:.0} ms, tracked forward {forward:.0} ms, backward {backward:.0} ms"
        );
    }
}

/// The products of 26 layers alone: what the passes above would take if everything else were free.
#[test]
#[ignore = "a measurement, not a check"]
fn products_of_26_layers_alone() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let shapes = [[576, 576], [192, 576], [192, 576], [576, 576], [1536, 576], [1536, 576], [576, 1536]];
    let random = |shape: [usize; 2]| Tensor::<2>::random(shape, burn::tensor::Distribution::Uniform(-1.0, 1.0), &device);
    let weights: Vec<Tensor<2>> = (0..26).flat_map(|_| shapes.map(random)).collect();
    let inputs = [random([84, 576]), random([84, 1536])];
    let of = |width: usize| if width == 576 { inputs[0].clone() } else { inputs[1].clone() };
    let mut best = [f64::INFINITY; 2];
    for _ in 0..15 {
        let clock = Instant::now();
        for weight in &weights {
            let _ = of(weight.dims()[1]).matmul(weight.clone().transpose());
        }
        best[0] = best[0].min(clock.elapsed().as_secs_f64());
        let gradients: Vec<Tensor<2>> = shapes.map(|[rows, _]| random([84, rows])).into();
        let clock = Instant::now();
        for (index, weight) in weights.iter().enumerate() {
            let _ = gradients[index % 7].clone().matmul(weight.clone());
        }
        best[1] = best[1].min(clock.elapsed().as_secs_f64());
    }
    println!("products alone: forward {:.0} ms, backward {:.0} ms", best[0] * 1e3, best[1] * 1e3);
}
