//! The loss of targets and its gradient against brute force, on small random models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use burn::tensor::{Tensor, TensorData, activation};
use easyedit_core::{CheckedRequest, EditRequest, LanguageModel, ParamName, TokenRow, tensor_values};
use easyedit_kernels::{TargetLoss, TrainingRow};
use easyedit_models::tiny::tiny_model;

const FAMILIES: [&str; 4] = ["gpt2", "llama", "gpt_neox", "t5"];

fn rows(model: &dyn LanguageModel) -> Vec<TrainingRow> {
    let facts = [("The capital of France is", "Rome"), ("Ada Quill speaks", "Welsh and more")];
    let row = |(prompt, target): &(&str, &str)| {
        TrainingRow::teacher_forced(
            &TrainingRow::tokens_of(model, &CheckedRequest::new(EditRequest::new(*prompt, "", *target)).unwrap(), true).unwrap(),
        )
    };
    facts.iter().map(row).collect()
}

fn value(loss: &TargetLoss, model: &dyn LanguageModel) -> f64 {
    loss.forward(model).unwrap().loss
}

/// A clone whose weight `name` has changed by `change` at `place`.
fn moved(model: &dyn LanguageModel, name: &ParamName, place: usize, change: f32) -> Box<dyn LanguageModel> {
    let weight = model.weight(name).unwrap();
    let [height, width] = weight.dims();
    let mut values = tensor_values(&weight).unwrap();
    values[place] += change;
    let mut model = model.boxed_clone();
    model.set_weight(name, Tensor::from_data(TensorData::new(values, [height, width]), &model.device())).unwrap();
    model
}

/// The gradient by `name`.
fn gradient(loss: &TargetLoss, model: &dyn LanguageModel, name: &ParamName) -> Vec<f32> {
    let tracked = Tensor::from_inner(model.weight(name).unwrap()).require_grad();
    let mut model = model.boxed_clone();
    model.set_weight(name, tracked.clone()).unwrap();
    let gradients = loss.forward(&*model).unwrap().backward().unwrap();
    tensor_values(&tracked.grad(&gradients).unwrap()).unwrap()
}

#[test]
fn the_loss_is_that_of_a_full_pass_from_whichever_layer_it_begins() {
    for family in FAMILIES {
        let model = tiny_model(family, 5).unwrap();
        let spec = model.spec();
        let rows = rows(&*model);
        // By hand: every logit of every row, each row alone.
        let mut by_hand = 0.0;
        for row in &rows {
            let batch = easyedit_core::TokenBatch::new(&[&row.row]).unwrap();
            let mut pass = model.start(&[&row.source], batch).unwrap();
            let hidden = model.hidden(&mut pass, &mut ()).unwrap();
            let logits = model.logits(hidden, &(0..row.row.len()).collect::<Vec<_>>()).unwrap();
            let log_probs = tensor_values(&activation::log_softmax(logits, 1)).unwrap();
            let of = |(index, id): &(usize, u32)| f64::from(log_probs[index * spec.vocab_size + *id as usize]);
            by_hand -= row.predictions.iter().map(of).sum::<f64>() / row.predictions.len() as f64 / rows.len() as f64;
        }
        let head = ParamName::new(format!("{}.weight", spec.modules.final_norm));
        let names = model.parameter_names();
        let starts = [(names[0].clone(), 0), (spec.mlp_out_weight(0), 0), (spec.mlp_out_weight(2), 2), (head, 3)];
        for (name, first) in starts {
            let loss = TargetLoss::new(&*model, &rows, std::slice::from_ref(&name)).unwrap();
            assert_eq!(loss.first_layer(), first, "{family} {name}");
            assert!((value(&loss, &*model) - by_hand).abs() < 1e-5, "{family} {name}: {by_hand}");
            // A change of the weight is seen, whatever was computed before.
            let other = moved(&*model, &name, 0, 0.7);
            let fresh = TargetLoss::new(&*other, &rows, std::slice::from_ref(&name)).unwrap();
            assert!((value(&loss, &*other) - value(&fresh, &*other)).abs() < 1e-6, "{family} {name}");
        }
    }
}

#[test]
fn gradients_are_slopes() {
    for family in FAMILIES {
        let model = tiny_model(family, 6).unwrap();
        let encoder = model.spec().encoder.as_ref().map(|encoder| ParamName::weight_of(&encoder.mlp_out, 1));
        for name in [model.spec().mlp_out_weight(1)].into_iter().chain(encoder) {
            let loss = TargetLoss::new(&*model, &rows(&*model), std::slice::from_ref(&name)).unwrap();
            let gradient = gradient(&loss, &*model, &name);
            let mut places: Vec<usize> = (0..gradient.len()).collect();
            places.sort_by(|a, b| gradient[*b].abs().total_cmp(&gradient[*a].abs()));
            for place in [places[0], places[1], places[40]] {
                let at = |change: f32| value(&loss, &*moved(&*model, &name, place, change));
                let slope = (at(4e-3) - at(-4e-3)) / 8e-3;
                let got = f64::from(gradient[place]);
                assert!((slope - got).abs() < 2e-2 * got.abs() + 3e-4, "{family} {name}: {slope} {got}");
            }
        }
    }
}

#[test]
fn a_batch_is_the_mean_of_its_rows() {
    for family in FAMILIES {
        let model = tiny_model(family, 7).unwrap();
        let name = model.spec().mlp_out_weight(1);
        let rows = rows(&*model);
        let loss = |rows: &[TrainingRow]| TargetLoss::new(&*model, rows, std::slice::from_ref(&name)).unwrap();
        let (together, parts) = (loss(&rows), TargetLoss::in_parts(&*model, &rows, 1, std::slice::from_ref(&name)).unwrap());
        assert_eq!((together.rows(), parts.len()), (2, 2));
        let alone: Vec<f64> = parts.iter().map(|part| value(part, &*model)).collect();
        let pass = together.forward(&*model).unwrap();
        assert!((pass.loss - (alone[0] + alone[1]) / 2.0).abs() < 1e-5, "{family}");
        assert!(pass.row_losses.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5), "{family}");
        let both = gradient(&together, &*model, &name);
        let parts: Vec<Vec<f32>> = parts.iter().map(|part| gradient(part, &*model, &name)).collect();
        assert!(both.iter().enumerate().all(|(i, g)| (g - (parts[0][i] + parts[1][i]) / 2.0).abs() < 1e-5), "{family}");
    }
}

#[test]
fn all_tokens_can_be_predicted_at_the_end_of_the_prompt() {
    let model = tiny_model("gpt2", 8).unwrap();
    let name = model.spec().mlp_out_weight(1);
    let tokens =
        TrainingRow::tokens_of(&*model, &CheckedRequest::new(EditRequest::new("Ada Quill speaks", "", "Welsh")).unwrap(), false).unwrap();
    let row = TrainingRow::prompt_last(&tokens);
    assert_eq!((row.row.len(), row.predictions.len()), (16, 6));
    assert!(row.predictions.iter().all(|(index, _)| *index == 15));
    let single = |prediction: (usize, u32)| TrainingRow { predictions: vec![prediction], ..row.clone() };
    let apart: Vec<TrainingRow> = row.predictions.iter().map(|prediction| single(*prediction)).collect();
    let loss = |rows: &[TrainingRow]| TargetLoss::new(&*model, rows, std::slice::from_ref(&name)).unwrap();
    let (joint, apart) = (loss(std::slice::from_ref(&row)), loss(&apart));
    assert!((value(&joint, &*model) - value(&apart, &*model)).abs() < 1e-5);
    let [joint, apart] = [joint, apart].map(|loss| gradient(&loss, &*model, &name));
    assert!(joint.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn what_cannot_be_learned_is_an_error() {
    let model = tiny_model("llama", 9).unwrap();
    let name = model.spec().mlp_out_weight(1);
    let loss = TargetLoss::new(&*model, &rows(&*model), &[name]).unwrap();
    assert!(loss.forward(&*model).unwrap().backward().is_err(), "nothing is tracked");
    let row = |predictions: Vec<(usize, u32)>| TrainingRow { source: TokenRow::default(), row: vec![1, 2].into(), predictions };
    for predictions in [vec![], vec![(2, 1)], vec![(1, 100_000)]] {
        assert!(TargetLoss::new(&*model, &[row(predictions)], &[]).is_err());
    }
    assert!(TargetLoss::new(&*model, &[], &[]).is_err());
}
