//! Facts of a real model, SmolLM2-135M: recalled early at the subject's last token, brought late to the end of the prompt.
//!
//! Runs where the model can be fetched (or was before); elsewhere it says that it is skipped, and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit_core::{Silent, device};
use easyedit_models::{Checkpoint, resolve_model};
use easyedit_trace::{Restored, TokenClass, TraceOptions, TraceReport, TraceRequest, trace_facts};

fn effect(report: &TraceReport, restored: Restored, class: TokenClass, layer: usize) -> f64 {
    let panel = report.average.panels.iter().find(|panel| panel.restored == restored).unwrap();
    panel.classes[&class].layers[layer].mean
}

#[test]
fn a_real_model_has_an_early_and_a_late_site() {
    let location = match resolve_model("smollm2-135m", &Silent) {
        Ok(location) => location,
        Err(error) => {
            eprintln!("skipped: the real model cannot be had: {error}");
            return;
        }
    };
    let model = Checkpoint::open(&location.path).unwrap().with_name(location.name).load(&device::select("cpu").unwrap()).unwrap();
    let facts: Vec<TraceRequest> = [("France", "Paris"), ("Japan", "Tokyo"), ("Sweden", "Stockholm")]
        .into_iter()
        .enumerate()
        .map(|(case_id, (country, capital))| TraceRequest {
            case_id,
            prompt: "The capital of {} is".into(),
            subject: country.into(),
            answer: Some(capital.into()),
        })
        .collect();
    let report = trace_facts(&*model, &facts, &TraceOptions { samples: 3, ..TraceOptions::default() }, &Silent).unwrap();
    assert_eq!((report.facts.len(), report.settings.window), (3, 6));
    let total = report.average.total_effect.mean;
    let at = |restored, class, layer| effect(&report, restored, class, layer) / total;
    let early = at(Restored::Hidden, TokenClass::LastSubject, 8);
    assert!(early > 0.4 && at(Restored::Hidden, TokenClass::Last, 8) < 0.05, "{early}");
    let recall = at(Restored::Mlp, TokenClass::LastSubject, 2);
    assert!(recall > 0.3 && at(Restored::Attention, TokenClass::LastSubject, 2) < 0.1, "{recall}");
    let late = at(Restored::Attention, TokenClass::Last, 21);
    assert!(late > 0.3 && at(Restored::Mlp, TokenClass::Last, 21) < late, "{late}");
    assert!(at(Restored::Hidden, TokenClass::LastSubject, 25) < 0.05);
}
