//! Metrics on a model whose predictions are known word for word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod toy;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use burn::tensor::{Tensor, TensorData};
use easyedit_core::{CheckedRequest, EditRequest, EvaluationPrompt, LanguageModel, Silent};
use easyedit_eval::{Answers, Evaluation};
use toy::{SUCCESSORS, Toy, WEIGHT, id};

fn prompts(pairs: &[(&str, &str)]) -> Vec<EvaluationPrompt> {
    pairs.iter().map(|(prompt, answer)| EvaluationPrompt::new(*prompt, *answer)).collect()
}

fn request() -> EditRequest {
    EditRequest {
        case_id: 5,
        rephrase_prompts: vec!["town of Gaul".into()],
        locality: BTreeMap::from([
            ("far".to_owned(), prompts(&[("capital of Norway", "Oslo"), ("town of Gaul", "Paris .")])),
            ("wrong".to_owned(), prompts(&[("capital of Germany", "Rome")])),
        ]),
        portability: BTreeMap::from([("one_hop".to_owned(), prompts(&[("mayor of France", "New York"), ("of Norway", "Oslo")]))]),
        ..EditRequest::new("capital of {}", "France", "New York")
    }
}

/// The toy after an edit that gives every word before Paris the successor `to`.
fn paris_becomes(to: &str) -> Toy {
    let mut model = Toy::new();
    let n = SUCCESSORS.len();
    let mut change = vec![0f32; n * n];
    change[id(to) as usize * n + id("Paris") as usize] = 3.0;
    let weight = Tensor::from_data(TensorData::new(change, [n, n]), &model.device());
    model.set_weight(&WEIGHT.into(), weight).unwrap();
    model
}

fn ask(model: &dyn LanguageModel, requests: &[EditRequest]) -> Vec<Answers> {
    Evaluation::new(model, &CheckedRequest::all(requests.iter().cloned()).unwrap()).unwrap().ask(model, &Silent).unwrap()
}

fn map(entries: &[(&str, &[f64])]) -> BTreeMap<String, Vec<f64>> {
    entries.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect()
}

#[test]
fn teacher_forced_scores_are_shares_of_target_tokens() {
    let before = ask(&Toy::new(), &[request()]).remove(0);
    let pre = before.metrics(None);
    // After France comes Paris, not New; after New comes York.
    assert_eq!((pre.rewrite_acc, pre.rephrase_acc), (vec![0.5], vec![0.5]));
    assert_eq!(pre.locality, None);
    assert_eq!(pre.portability, Some(map(&[("one_hop_acc", &[0.5, 1.0])])));
    let after = ask(&paris_becomes("New"), &[request()]).remove(0);
    let post = after.metrics(Some(&before));
    assert_eq!((post.rewrite_acc, post.rephrase_acc), (vec![1.0], vec![1.0]));
    // Gaul's successor has changed, what follows Paris has not. A wrong answer that stays wrong is stable.
    assert_eq!(post.locality, Some(map(&[("far_acc", &[1.0, 0.5]), ("wrong_acc", &[1.0])])));
    assert_eq!(post.portability, Some(map(&[("one_hop_acc", &[1.0, 1.0])])));
}

#[test]
fn free_scores_are_of_what_the_model_says() {
    let before = ask(&Toy::new(), &[request()]).remove(0);
    let pre = before.free_metrics(None);
    assert_eq!((pre.rewrite_acc, pre.rephrase_acc), (vec![0.0], vec![0.0]));
    assert_eq!(pre.portability, Some(map(&[("one_hop_acc", &[0.0, 1.0])])));
    let after = ask(&paris_becomes("New"), &[request()]).remove(0);
    let post = after.free_metrics(Some(&before));
    assert_eq!((post.rewrite_acc, post.rephrase_acc), (vec![1.0], vec![1.0]));
    assert_eq!(post.locality, Some(map(&[("far_acc", &[1.0, 0.0]), ("wrong_acc", &[1.0])])));
    // Half of the tokens are right when they are forced; said freely, nothing is.
    let other = ask(&paris_becomes("York"), &[request()]).remove(0);
    assert_eq!((other.metrics(None).rewrite_acc, other.free_metrics(None).rewrite_acc), (vec![0.5], vec![0.0]));
}

#[test]
fn a_model_compared_with_itself_is_stable_everywhere() {
    let answers = ask(&Toy::new(), &[request()]).remove(0);
    for metrics in [answers.metrics(Some(&answers)), answers.free_metrics(Some(&answers))] {
        assert!(metrics.locality.unwrap().values().flatten().all(|value| *value == 1.0));
    }
}

#[test]
fn one_request_alone_and_among_others_is_answered_alike() {
    let model = Toy::new();
    let plain = EditRequest { case_id: 6, ..EditRequest::new("capital of Norway", "Norway", "Rome") };
    let mut requests = vec![request(), plain];
    // More than one batch: 2048 tokens are its limit.
    for case_id in 7..400 {
        let filler = "of ".repeat(case_id % 15);
        requests.push(EditRequest { case_id, ..EditRequest::new(format!("{filler}town of Gaul"), "Gaul", "Rome .") });
    }
    let evaluation = Evaluation::new(&model, &CheckedRequest::all(requests.iter().cloned()).unwrap()).unwrap();
    let all = evaluation.ask(&model, &Silent).unwrap();
    assert_eq!((all.len(), evaluation.len()), (requests.len(), requests.len()));
    for index in [0, 1, 2, 16, 250, requests.len() - 1] {
        assert_eq!(evaluation.ask_some(&model, &[index], &Silent).unwrap(), [all[index].clone()]);
        assert_eq!(ask(&model, &requests[index..=index]), [all[index].clone()]);
    }
    assert_eq!(evaluation.ask_some(&model, &[1, 0, 9999], &Silent).unwrap(), [all[1].clone(), all[0].clone()]);
}

#[test]
fn a_question_asked_twice_is_run_once() {
    let tokens = |requests: &[EditRequest]| {
        let model = Toy::new();
        ask(&model, requests);
        model.tokens_run.load(Ordering::Relaxed)
    };
    assert_eq!(tokens(&[request()]), tokens(&[request(), request(), request()]));
}

#[test]
fn an_edit_request_without_extras_has_no_rephrase_and_empty_maps() {
    let metrics = ask(&Toy::new(), &[EditRequest::new("capital of France", "France", "Paris")]).remove(0).metrics(None);
    assert_eq!(serde_json::to_string(&metrics).unwrap(), r#"{"rewrite_acc":[1.0],"portability":{}}"#);
}

#[test]
fn bad_questions_are_errors_that_name_the_request() {
    let model = Toy::new();
    let mut long = request();
    long.rephrase_prompts = vec!["of ".repeat(toy::POSITIONS)];
    let message = Evaluation::new(&model, &CheckedRequest::all([long]).unwrap()).unwrap().ask(&model, &Silent).unwrap_err().to_string();
    assert!(message.contains("request 5") && message.contains("24 positions"), "{message}");
}

#[test]
fn a_question_that_just_fits_the_positions_is_answered() {
    let fits = EditRequest::new(format!("{}France", "of ".repeat(toy::POSITIONS - 2)), "France", "Paris");
    let answers = ask(&Toy::new(), &[fits]).remove(0);
    assert_eq!((answers.metrics(None).rewrite_acc, answers.free_metrics(None).rewrite_acc), (vec![1.0], vec![1.0]));
}

#[test]
fn damaged_weights_are_an_error_and_not_a_score() {
    let mut model = Toy::new();
    let n = SUCCESSORS.len();
    let weight = Tensor::from_data(TensorData::new(vec![f32::NAN; n * n], [n, n]), &model.device());
    model.set_weight(&WEIGHT.into(), weight).unwrap();
    let message =
        Evaluation::new(&model, &CheckedRequest::all([request()]).unwrap()).unwrap().ask(&model, &Silent).unwrap_err().to_string();
    assert!(message.contains("not finite"), "{message}");
}
