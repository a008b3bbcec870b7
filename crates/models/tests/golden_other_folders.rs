//! Encoder-decoders and text encoders against the values in `data/golden`, and through a saved checkpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData, activation};
use common::{MemoryTensors, largest_difference, values};
use easyedit_core::{EncoderOutput, LanguageModel, Matrix, ParamName, Pass, TokenBatch};
use easyedit_models::{Checkpoint, is_text_encoder, save_checkpoint, verify, verify_text_encoder};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/golden").join(name)
}

fn device() -> Device {
    easyedit_core::device::select("cpu").unwrap()
}

/// Row 0 of a tensor, which has no pads.
fn first_row(golden: &MemoryTensors, name: &str) -> Tensor<2> {
    let (shape, values) = &golden.tensors[name];
    let [_, length, width] = shape[..] else { panic!("{name} has shape {shape:?}") };
    Tensor::from_data(TensorData::new(values[..length * width].to_vec(), [length, width]), &device())
}

fn ids(golden: &MemoryTensors, name: &str) -> Vec<u32> {
    let (shape, ids) = &golden.tensors[name];
    ids[..shape[1]].iter().map(|id| *id as u32).collect()
}

#[test]
fn encoder_decoders_agree() {
    for name in ["t5", "t5_v1_1"] {
        let model = Checkpoint::open(&folder(name)).unwrap().load(&device()).unwrap();
        let verification = verify(&*model, &folder(name).join("golden.safetensors"), 1e-4).unwrap();
        let names: Vec<&str> = verification.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let want = ["encoder_hidden_0", "encoder_hidden_1", "encoder_last_hidden_state", "decoder_hidden_0", "decoder_hidden_1", "logits"];
        assert_eq!(names, want, "{name}");
        println!("{name}: {:e}", verification.worst().unwrap().largest_difference);
        assert!(verification.agrees(), "{name}: {:?}", verification.tensors);
    }
}

#[test]
fn text_encoders_agree() {
    for name in ["bert", "distilbert"] {
        let model = Checkpoint::open(&folder(name)).unwrap().load_text_encoder(&device()).unwrap();
        let verification = verify_text_encoder(&model, &folder(name).join("golden.safetensors"), 1e-4).unwrap();
        let names: Vec<&str> = verification.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["last_hidden_state", "mean_pooled", "sentence_embedding"], "{name}");
        println!("{name}: {:e}", verification.worst().unwrap().largest_difference);
        assert!(verification.agrees(), "{name}: {:?}", verification.tensors);
    }
}

/// Gradients of the loss by a hidden state of the decoder and by what the encoder made of the source.
fn gradients(model: &dyn LanguageModel, golden: &MemoryTensors) -> [Tensor<2>; 2] {
    let (source, row) = (TokenBatch::new(&[ids(golden, "input_ids")]).unwrap(), ids(golden, "decoder_input_ids"));
    let encoded = Tensor::from_inner(first_row(golden, "encoder_last_hidden_state")).require_grad();
    let output = EncoderOutput::new(encoded.clone(), source, &device()).unwrap();
    let mut pass = Pass::new(TokenBatch::new(&[&row]).unwrap(), &device()).reading(output).unwrap();
    let start = Tensor::from_inner(first_row(golden, "decoder_hidden_1")).require_grad();
    // Layer 1 and up for the hidden state; the whole decoder for the encoder's output.
    let upper = model.run_layers(start.clone(), 1..model.spec().n_layers, &mut pass, &mut ()).unwrap();
    let of_start = start.grad(&loss(model, upper, &row).backward()).unwrap();
    let whole = model.hidden(&mut pass, &mut ()).unwrap();
    let of_encoded = encoded.grad(&loss(model, whole, &row).backward()).unwrap();
    [of_start, of_encoded]
}

/// Mean cross-entropy of the logits at `t` with the row's token `t + 1`.
fn loss(model: &dyn LanguageModel, hidden: Tensor<2>, row: &[u32]) -> Tensor<1> {
    let predicting: Vec<usize> = (0..row.len() - 1).collect();
    let log_probs = activation::log_softmax(model.logits(hidden, &predicting).unwrap(), 1);
    let vocab = model.spec().vocab_size;
    let mut chosen = vec![0f32; predicting.len() * vocab];
    for (position, id) in row[1..].iter().enumerate() {
        chosen[position * vocab + *id as usize] = -1.0 / predicting.len() as f32;
    }
    let chosen = Tensor::<2>::from_data(TensorData::new(chosen, [predicting.len(), vocab]), &device());
    (log_probs * Tensor::from_inner(chosen)).sum()
}

#[test]
fn gradients_of_encoder_decoders_agree() {
    for name in ["t5", "t5_v1_1"] {
        let golden = MemoryTensors::open(&folder(name).join("golden.safetensors"));
        let model = Checkpoint::open(&folder(name)).unwrap().load(&device()).unwrap();
        let computed = gradients(&*model, &golden);
        for (gradient, tensor) in computed.iter().zip(["grad_decoder_hidden_1", "grad_encoder_last_hidden_state"]) {
            let want = values(&first_row(&golden, tensor));
            let largest = want.iter().fold(0f32, |max, g| max.max(g.abs()));
            let difference = largest_difference(&values(gradient), &want) / largest;
            println!("{name}: {tensor} differs by {difference:e} of its largest value");
            assert!(difference <= 1e-3, "{name}: {tensor} differs by {difference} of its largest value");
        }
    }
}

#[test]
fn changed_models_come_back_from_their_checkpoints() {
    for name in ["t5", "t5_v1_1", "bert", "distilbert"] {
        let checkpoint = Checkpoint::open(&folder(name)).unwrap();
        let weights = |checkpoint: &Checkpoint| -> BTreeMap<ParamName, Vec<f32>> {
            if is_text_encoder(checkpoint.model_type()) {
                let model = checkpoint.load_text_encoder(&device()).unwrap();
                model.parameter_names().into_iter().map(|name| (name.clone(), values(&model.weight(&name).unwrap()))).collect()
            } else {
                let model = checkpoint.load(&device()).unwrap();
                model.parameter_names().into_iter().map(|name| (name.clone(), values(&model.weight(&name).unwrap()))).collect()
            }
        };
        let mut wanted = weights(&checkpoint);
        let changed = wanted.keys().find(|name| name.as_str().ends_with("wo.weight") || name.as_str().ends_with("output.dense.weight"));
        let changed = changed.or(wanted.keys().find(|name| name.as_str().ends_with("lin2.weight"))).unwrap().clone();
        // Doubled, because that is exact in the f16 of the files.
        let doubled: Vec<f32> = wanted[&changed].iter().map(|v| 2.0 * v).collect();
        wanted.insert(changed.clone(), doubled.clone());
        let stored = checkpoint.stored_name(&changed).unwrap().unwrap();
        let shape = checkpoint.files().shape(&stored).unwrap();
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("changed");
        let matrix = Matrix::new(shape[0], shape[1], doubled).unwrap();
        save_checkpoint(&checkpoint, &BTreeMap::from([(changed, matrix)]), &[], &out).unwrap();
        assert_eq!(weights(&Checkpoint::open(&out).unwrap()), wanted, "{name}");
    }
}
