//! Comparing a model with a dump: what agrees, what does not, and files that cannot be compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use common::values;
use easyedit_core::{Capture, LanguageModel, Module, Pass, Site, TokenBatch};
use easyedit_models::tiny::tiny_model;
use easyedit_models::{Verification, verify};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

const IDS: [&[u32]; 2] = [&[5, 6, 7, 8], &[9, 10]];
const LENGTH: usize = 4;

type Dumped = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn i64s(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// Where row 1 begins: pads on the right, or on the left.
fn spread(values: &[f32], width: usize, left: bool, pad: f32) -> Vec<f32> {
    let first = LENGTH * width;
    let pads = vec![pad; 2 * width];
    let (row, second) = values.split_at(first);
    let parts: [&[f32]; 3] = if left { [row, &pads, second] } else { [row, second, &pads] };
    parts.concat()
}

/// A dump of what the model itself computes; pads hold NaN, so that comparing one would show.
fn dump(model: &dyn LanguageModel, left: bool) -> Vec<Dumped> {
    let batch = TokenBatch::new(&IDS).unwrap();
    // The last site keeps the run from ending once the other is captured.
    let mut capture = Capture::new([Site::new(1, Module::BlockInput), Site::new(2, Module::BlockOutput)]);
    let mut pass = Pass::new(batch.clone(), &model.device());
    let last = model.hidden(&mut pass, &mut capture).unwrap();
    let logits = values(&model.logits(last, &[0, 1, 2, 3, 4, 5]).unwrap());
    let hidden = values(capture.get(Site::new(1, Module::BlockInput)).unwrap());
    let (vocab, width) = (model.spec().vocab_size, model.spec().d_model);
    let (ids, mask) = match left {
        true => ([5, 6, 7, 8, -100, -100, 9, 10], [1, 1, 1, 1, 0, 0, 1, 1]),
        false => ([5, 6, 7, 8, 9, 10, -100, -100], [1, 1, 1, 1, 1, 1, 0, 0]),
    };
    vec![
        ("input_ids", Dtype::I64, vec![2, LENGTH], i64s(&ids)),
        ("attention_mask", Dtype::I64, vec![2, LENGTH], i64s(&mask)),
        ("hidden_1", Dtype::F32, vec![2, LENGTH, width], f32s(&spread(&hidden, width, left, f32::NAN))),
        ("hidden_3", Dtype::F32, vec![2, LENGTH, width], f32s(&spread(&hidden, width, left, 0.0))),
        ("logits", Dtype::F32, vec![2, LENGTH, vocab], f32s(&spread(&logits, vocab, left, f32::NAN))),
    ]
}

fn write(tensors: &[Dumped]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("golden.safetensors");
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    (dir, path)
}

fn replace(tensors: &mut [Dumped], name: &str, change: impl FnOnce(&mut Dumped)) {
    change(tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap());
}

#[test]
fn only_real_tokens_are_compared_on_whichever_side_the_pads_are() {
    let model = tiny_model("llama", 3).unwrap();
    for left in [false, true] {
        let (_dir, path) = write(&dump(&*model, left));
        let Verification { rows, tokens, tensors, not_compared, .. } = verify(&*model, &path, 1e-6).unwrap();
        assert_eq!((rows, tokens), (2, 6));
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["hidden_1", "logits"]);
        assert!(tensors.iter().all(|tensor| tensor.agrees && tensor.largest_difference <= 1e-6), "{tensors:?}");
        assert_eq!(tensors[0].compared, 6 * model.spec().d_model);
        assert_eq!(not_compared.len(), 1, "the last hidden state is behind the final norm");
        assert_eq!(not_compared[0].name, "hidden_3");
    }
}

#[test]
fn a_difference_is_found_and_placed() {
    let model = tiny_model("gpt2", 3).unwrap();
    let vocab = model.spec().vocab_size;
    for (value, infinite) in [(1000.0f32, false), (f32::NAN, true), (f32::INFINITY, true)] {
        let mut tensors = dump(&*model, true);
        let place = (LENGTH + 2) * vocab * 4;
        replace(&mut tensors, "logits", |logits| logits.3[place..place + 4].copy_from_slice(&value.to_le_bytes()));
        let (_dir, path) = write(&tensors);
        let verification = verify(&*model, &path, 1e-4).unwrap();
        assert!(!verification.agrees());
        let worst = verification.worst().unwrap();
        assert_eq!((worst.name.as_str(), worst.at), ("logits", [1, 2]));
        assert_eq!(worst.largest_difference.is_infinite(), infinite);
        assert!(verification.tensors[0].agrees, "the hidden state is as it was");
    }
}

#[track_caller]
fn refused(model: &dyn LanguageModel, path: &Path, parts: &[&str]) {
    let message = verify(model, path, 1e-4).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// What is done to a tensor of a dump.
type Change<'a> = Box<dyn FnOnce(&mut Dumped) + 'a>;

#[test]
fn files_that_cannot_be_compared_say_why() {
    let model = tiny_model("llama", 3).unwrap();
    let (vocab, width) = (model.spec().vocab_size, model.spec().d_model);
    refused(&*model, Path::new("nowhere.safetensors"), &["nowhere.safetensors"]);
    let ids = |numbers: [i64; 8]| move |tensor: &mut Dumped| tensor.3 = i64s(&numbers);
    let cases: Vec<(&str, Change<'_>, &[&str])> = vec![
        ("input_ids", Box::new(ids([5, 6, 7, 8, 9, 999_999, 0, 0])), &["999999"]),
        ("input_ids", Box::new(ids([5, -6, 7, 8, 9, 10, 0, 0])), &["input_ids", "-6", "[0, 1]"]),
        ("input_ids", Box::new(|t: &mut Dumped| (t.1, t.3) = (Dtype::F32, f32s(&[0.0; 8]))), &["input_ids", "F32", "whole numbers"]),
        ("input_ids", Box::new(|t: &mut Dumped| t.2 = vec![8]), &["input_ids", "[8]", "[rows, length]"]),
        ("input_ids", Box::new(|t: &mut Dumped| (t.2, t.3) = (vec![0, 4], vec![])), &["attention_mask", "[0, 4]"]),
        ("input_ids", Box::new(|t: &mut Dumped| t.0 = "ids"), &["input_ids", "missing"]),
        ("attention_mask", Box::new(ids([1, 1, 1, 1, 0, 0, 0, 0])), &["row 1", "no real token"]),
        ("attention_mask", Box::new(ids([1, 1, 1, 1, 2, 1, 0, 0])), &["attention_mask", "2", "[1, 0]"]),
        ("attention_mask", Box::new(|t: &mut Dumped| t.2 = vec![4, 2]), &["attention_mask", "[4, 2]"]),
        ("logits", Box::new(|t: &mut Dumped| t.2 = vec![2, vocab, 4]), &["logits", "[2, 260, 4]", "[2, 4, 260]"]),
        ("hidden_1", Box::new(|t: &mut Dumped| t.2 = vec![8, width]), &["hidden_1", "[8, 32]"]),
        (
            "hidden_1",
            Box::new(move |t: &mut Dumped| (t.1, t.3) = (Dtype::I64, vec![0; 2 * LENGTH * width * 8])),
            &["hidden_1", "I64", "F32"],
        ),
        ("hidden_3", Box::new(|t: &mut Dumped| t.0 = "decoder_input_ids"), &["decoder_input_ids", "encoder-decoder"]),
    ];
    for (name, change, parts) in cases {
        let mut tensors = dump(&*model, false);
        replace(&mut tensors, name, change);
        let (_dir, path) = write(&tensors);
        refused(&*model, &path, parts);
    }
    let mut nothing = dump(&*model, false);
    nothing.truncate(2);
    let (_dir, path) = write(&nothing);
    refused(&*model, &path, &["nothing to compare", "logits"]);
}
