//! The operations that models, kernels and metrics are made of, each on the device and on the CPU.

use anyhow::Result;
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use easyedit::tensor_values;

use super::{Checker, relative_difference};

type Operation = (&'static str, fn(&Device) -> Result<Vec<f32>>);

const OPERATIONS: &[Operation] = &[
    ("upload, read back", |d| numbers(random([7, 33], 1, d))),
    ("integers as floats", |d| numbers(indices(&[3, 0, 2, 40_000], d).float())),
    ("a + b * 2", |d| numbers(random([64, 96], 1, d) + random([64, 96], 2, d) * 2.0)),
    ("broadcast a[n, 1] * b[1, m]", |d| numbers(random([64, 1], 1, d) * random([1, 96], 2, d))),
    ("exp", |d| numbers(random([64, 96], 1, d).exp())),
    ("log", |d| numbers((random([64, 96], 1, d).abs() + 0.1).log())),
    ("tanh", |d| numbers(random([64, 96], 1, d).tanh())),
    ("sqrt, reciprocal", |d| numbers((random([64, 96], 1, d).abs() + 0.1).sqrt().recip())),
    ("x * sigmoid(x)", |d| numbers(activation::silu(random([64, 96], 1, d)))),
    ("GELU", |d| numbers(activation::gelu(random([64, 96], 1, d)))),
    ("sum over rows", |d| numbers(random([64, 300], 1, d).sum_dim(1))),
    ("sum over columns", |d| numbers(random([64, 300], 1, d).sum_dim(0))),
    ("mean", |d| numbers(random([64, 300], 1, d).mean_dim(1))),
    ("maximum", |d| numbers(random([64, 300], 1, d).max_dim(1))),
    ("sum of everything", |d| numbers(random([64, 300], 1, d).sum())),
    ("RMS norm", |d| {
        let x = random([64, 96], 1, d);
        let mean = (x.clone() * x.clone()).mean_dim(1);
        numbers(x * (mean + 1e-5).sqrt().recip() * random([1, 96], 2, d))
    }),
    ("layer norm", |d| {
        let x = random([64, 96], 1, d);
        let centred = x.clone() - x.mean_dim(1);
        let variance = (centred.clone() * centred.clone()).mean_dim(1);
        numbers(centred / (variance + 1e-5).sqrt())
    }),
    ("matmul [64,128] [128,256]", |d| numbers(random([64, 128], 1, d).matmul(random([128, 256], 2, d)))),
    ("matmul [84,96] [200,96]^T", |d| numbers(random([84, 96], 1, d).matmul(random([200, 96], 2, d).transpose()))),
    ("matmul [1,96] [96,500]", |d| numbers(random([1, 96], 1, d).matmul(random([96, 500], 2, d)))),
    ("matmul a^T a", |d| {
        let a = random([150, 96], 1, d);
        numbers(a.clone().transpose().matmul(a))
    }),
    ("matmul [12,4,7,16] [12,4,16,20]", |d| numbers(random([12, 4, 7, 16], 1, d).matmul(random([12, 4, 16, 20], 2, d)))),
    ("matmul [12,4,7,16] [12,4,20,16]^T", |d| numbers(random([12, 4, 7, 16], 1, d).matmul(random([12, 4, 20, 16], 2, d).swap_dims(2, 3)))),
    ("softmax", |d| numbers(activation::softmax(random([64, 256], 1, d) * 3.0, 1))),
    ("softmax of a matmul", |d| numbers(activation::softmax(random([64, 128], 1, d).matmul(random([128, 256], 2, d)), 1))),
    ("softmax [12,4,7,20], last", |d| numbers(activation::softmax(random([12, 4, 7, 20], 1, d), 3))),
    ("log softmax", |d| numbers(activation::log_softmax(random([64, 1_000], 1, d) * 3.0, 1))),
    ("select rows", |d| numbers(random([50, 96], 1, d).select(0, indices(&[3, 0, 49, 3, 17], d)))),
    ("gather", |d| numbers(random([4, 96], 1, d).gather(1, indices(&[3, 0, 95, 3], d).reshape([4, 1])))),
    ("scatter, adding", |d| {
        let at = indices(&[3, 0, 95, 3], d).reshape([4, 1]);
        numbers(random([4, 96], 1, d).scatter(1, at, random([4, 1], 2, d), IndexingUpdateOp::Add))
    }),
    ("cat", |d| numbers(Tensor::cat(vec![random([7, 96], 1, d), random([5, 96], 2, d)], 0))),
    ("narrow", |d| numbers(random([64, 96], 1, d).narrow(1, 30, 40))),
    ("slice assign", |d| numbers(random([64, 96], 1, d).slice_assign([3..5, 10..20], random([2, 10], 2, d)))),
    ("heads: reshape, swap, back", |d| {
        let heads = random([12, 7, 64], 1, d).reshape([12, 7, 4, 16]).swap_dims(1, 2) * 2.0;
        numbers(heads.swap_dims(1, 2).reshape([84, 64]))
    }),
    ("rotate halves", |d| {
        let x = random([12, 4, 7, 16], 1, d);
        let turned = Tensor::cat(vec![-x.clone().narrow(3, 8, 8), x.clone().narrow(3, 0, 8)], 3);
        numbers(x * random([1, 1, 7, 16], 2, d) + turned * random([1, 1, 7, 16], 3, d))
    }),
    ("mask fill", |d| {
        let x = random([64, 96], 1, d);
        numbers(x.clone().mask_fill(x.greater_elem(0.25), -1e9) / 1e9)
    }),
    ("repeat", |d| numbers(random([12, 2, 1, 7, 16], 1, d).repeat_dim(2, 3))),
    ("gradient through softmax of matmuls", |d| {
        let start = Tensor::from_inner(random::<2>([12, 32], 1, d)).require_grad();
        let scores = start.clone().matmul(Tensor::from_inner(random::<2>([32, 40], 2, d)));
        let loss = activation::softmax(scores, 1).matmul(Tensor::from_inner(random::<2>([40, 8], 3, d))).powf_scalar(2.0).sum();
        let gradients = loss.backward();
        numbers(start.grad(&gradients).ok_or_else(|| anyhow::anyhow!("there is no gradient"))?)
    }),
];

pub(super) fn check(checker: &mut Checker<'_>) {
    let tolerance = checker.tolerances.operation;
    for (name, run) in OPERATIONS {
        checker.check("operations", name, tolerance, |device, cpu| Ok(relative_difference(&run(device)?, &run(cpu)?)));
    }
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    Ok(tensor_values(&tensor)?)
}

/// Reproducible numbers between -1 and 1, made on the CPU whatever the device.
fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            // SplitMix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn indices(values: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}
