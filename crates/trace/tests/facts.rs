//! Traces of facts that the small models know, by construction at the last token of the subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;

use easyedit_core::Silent;
use easyedit_tiny_world::{Fact, facts, is_encoder_decoder, model, model_names};
use easyedit_trace::{Restored, TokenClass, TraceOptions, TraceReport, TraceRequest, suggest_layers, trace_facts};

const FACTS: usize = 16;

/// Facts about subjects of one word and of several in turn, none of which ends its prompt.
fn requests() -> Vec<TraceRequest> {
    let open = |several: bool| {
        let asked = facts().iter().filter(|fact| !fact.prompt.ends_with(fact.subject.as_str()));
        asked.filter(move |fact| fact.subject.contains(' ') == several).step_by(7)
    };
    let facts = open(true).zip(open(false)).flat_map(|(several, one)| [several, one]);
    let request = |(case_id, fact): (usize, &Fact)| TraceRequest {
        case_id,
        prompt: fact.prompt.clone(),
        subject: fact.subject.clone(),
        answer: Some(fact.object.clone()),
    };
    facts.enumerate().map(request).collect()
}

fn options() -> TraceOptions {
    TraceOptions { samples: 4, window: Some(1), most: Some(FACTS), ..TraceOptions::default() }
}

/// The largest mean effect of a kind of states at the tokens of a role, in some layers.
fn peak(report: &TraceReport, restored: Restored, class: TokenClass, layers: Range<usize>) -> f64 {
    let panel = report.average.panels.iter().find(|panel| panel.restored == restored).unwrap();
    panel.classes.get(&class).map_or(0.0, |effects| effects.layers[layers].iter().map(|effect| effect.mean).fold(0.0, f64::max))
}

#[test]
fn facts_are_recalled_early_at_the_last_token_of_the_subject_in_every_family() {
    for name in model_names().filter(|name| !is_encoder_decoder(name)) {
        let report = trace_facts(&*model(name).unwrap(), &requests(), &options(), &Silent).unwrap();
        assert_eq!(report.facts.len(), FACTS, "{name}");
        let (total, depth) = (report.average.total_effect.mean, report.n_layers);
        let (early, late) = (0..depth / 2, depth - 1..depth);
        assert!(total > 0.5, "{name}: the noise takes {total} of the answers");
        for restored in [Restored::Hidden, Restored::Mlp] {
            let site = peak(&report, restored, TokenClass::LastSubject, early.clone());
            assert!(site > 0.25 * total, "{name}: {restored:?} at the early site gives back {site} of {total}");
            for elsewhere in [TokenClass::FirstSubsequent, TokenClass::FurtherSubsequent, TokenClass::Last] {
                let other = peak(&report, restored, elsewhere, early.clone());
                assert!(site > 5.0 * other, "{name}: {restored:?} at {elsewhere:?} gives back {other}, at the early site {site}");
            }
        }
        let late_site = peak(&report, Restored::Attention, TokenClass::Last, depth / 2..depth);
        assert!(late_site > 0.5 * total, "{name}: attention at the end gives back {late_site} of {total}");
        let end = peak(&report, Restored::Hidden, TokenClass::Last, late.clone());
        assert!((end - total).abs() < 1e-4, "{name}: the last state of the last token is all there is: {end} of {total}");
        assert!(peak(&report, Restored::Hidden, TokenClass::LastSubject, late) < 1e-6, "{name}");
        let suggestion = suggest_layers(&report.average, 2).unwrap();
        assert!(suggestion.layer < depth / 2 && suggestion.layers.contains(&suggestion.layer), "{name}: {suggestion:?}");
    }
}

#[test]
fn facts_the_model_does_not_know_are_left_out_and_named() {
    let model = model("llama").unwrap();
    let mut requests: Vec<TraceRequest> = requests().into_iter().take(3).collect();
    let wrong = requests[2].answer.clone().filter(|answer| Some(answer) != requests[1].answer.as_ref()).unwrap();
    requests[1].answer = Some(wrong.clone());
    let report = trace_facts(&*model, &requests, &options(), &Silent).unwrap();
    assert_eq!(report.facts.iter().map(|fact| fact.case_id).collect::<Vec<_>>(), [0, 2]);
    let [left_out] = report.left_out.as_slice() else { panic!("{:?}", report.left_out) };
    assert!(left_out.case_id == 1 && wrong.contains(left_out.answer.trim()) && left_out.predicted != left_out.answer, "{left_out:?}");

    let all = trace_facts(&*model, &requests, &TraceOptions { only_known: false, ..options() }, &Silent).unwrap();
    assert!(all.facts.len() == 3 && all.facts[1].clean < 0.5, "the wrong answer is measured when it is asked for");
    let error = trace_facts(&*model, &requests[1..2], &options(), &Silent).unwrap_err().to_string();
    assert!(error.contains("none of the 1 facts") && error.contains(&requests[1].prompt), "{error}");
    requests[2].subject = "Nobody".into();
    let error = trace_facts(&*model, &requests, &options(), &Silent).unwrap_err().to_string();
    assert!(error.contains("request 2") && error.contains("Nobody"), "{error}");
    let error = trace_facts(&*model, &requests[..1], &TraceOptions { window: Some(9), ..options() }, &Silent).unwrap_err().to_string();
    assert!(error.contains("9 layers"), "{error}");
}

#[test]
fn a_model_s_own_answer_is_traced_where_none_is_given() {
    let model = model("gptj").unwrap();
    let mut request = requests().swap_remove(0);
    let given = trace_facts(&*model, &[request.clone()], &options(), &Silent).unwrap();
    request.answer = None;
    assert_eq!(trace_facts(&*model, &[request], &options(), &Silent).unwrap(), given);
    let text = serde_json::to_string(&given).unwrap();
    assert_eq!(serde_json::from_str::<TraceReport>(&text).unwrap(), given, "a report can be read back");
    assert!(given.settings.noise > 0.0 && (given.settings.noise / given.settings.embedding_deviation - 3.0).abs() < 1e-9);
}
