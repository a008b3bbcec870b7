//! Contexts with inserted vectors: shared and cached by their vectors, not by their ids. The vectors are embeddings of tokens, so that what is
//! found has to be what is found for these tokens, bit for bit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Tensor;
use easyedit_core::tokens::FactToken;
use easyedit_core::{
    CheckedRequest, Corpora, EditRequest, EditedModel, ForwardChange, Insert, LanguageModel, Matrix, Module, Overlay, ParamName,
    ParameterRole, Pass, Probe, Session, Silent, Site, Stack, TokenRow,
};
use easyedit_kernels::{
    Contexts, FactRow, LayerWalk, OptimizedValue, Restoration, TargetLoss, TraceConfig, TracePrompt, TrainingRow, ValueConfig, ValueSite,
    cached_values, embedding_deviation, optimize_values, trace,
};
use easyedit_models::tiny::tiny_model;

const FAMILIES: [&str; 2] = ["gpt2", "llama"];
const LAYER: usize = 1;

/// `row` with placeholders at `at`, where the embeddings of the ids themselves are inserted.
fn inserted(model: &dyn LanguageModel, row: &TokenRow, at: std::ops::Range<usize>) -> TokenRow {
    let table = model.spec().name_of(Stack::Decoder, None, ParameterRole::TokenEmbedding).unwrap();
    let ids: Vec<usize> = row.ids()[at.clone()].iter().map(|id| *id as usize).collect();
    let vectors = Matrix::from_tensor(&model.rows_of(model.weight(table).unwrap(), &ids)).unwrap();
    let mut placeholders = row.ids().to_vec();
    placeholders[at.clone()].fill(3);
    TokenRow::with_inserts(placeholders, vec![Insert::new(at.start, vectors).unwrap()]).unwrap()
}

/// Counts the tokens that go into layers, once for each layer.
#[derive(Clone, Debug, Default)]
struct Counted(Arc<AtomicUsize>);

impl ForwardChange for Counted {
    fn probe(&self, _: &Pass) -> Option<Box<dyn Probe + '_>> {
        Some(Box::new(self.clone()))
    }
}

impl Probe for Counted {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        if site.module == Module::BlockInput {
            self.0.fetch_add(activations.dims()[0], Ordering::Relaxed);
        }
        activations
    }
}

impl Counted {
    /// Number of tokens that `work` runs.
    fn during<T>(&self, work: impl FnOnce() -> T) -> (usize, T) {
        let before = self.0.load(Ordering::Relaxed);
        let made = work();
        (self.0.load(Ordering::Relaxed) - before, made)
    }
}

/// Contexts of a subject in templates with a beginning that is long enough to be shared.
fn contexts(model: &dyn LanguageModel, subject: &str) -> Contexts {
    let templates = ["{}", "So it is said in many a book. {}"].map(str::to_owned);
    let request = EditRequest::new(format!("Look at the seat of {subject}, which is"), subject, "Rome");
    Contexts::of(model, &CheckedRequest::new(request).unwrap(), &templates, FactToken::SubjectLast).unwrap()
}

/// The same contexts with embeddings of the tokens before and of the subject inserted.
fn with_inserts(model: &dyn LanguageModel, contexts: &Contexts) -> Contexts {
    let mut contexts = contexts.clone();
    for context in contexts.rows.iter_mut().take(contexts.templates) {
        let at = context.fact_index - 5..context.fact_index + 2;
        context.row = inserted(model, &context.row, at);
    }
    contexts
}

fn config() -> ValueConfig {
    ValueConfig {
        steps: 4,
        lr: 0.02,
        betas: [0.9, 0.999],
        weight_decay: 1e-3,
        clamp_norm_factor: 4.0,
        kl_factor: 0.7,
        loss_threshold: 0.0,
        site: ValueSite::MlpOutput,
        nll_factor: 1.0,
        once_predicted: None,
    }
}

fn optimize(model: &dyn LanguageModel, contexts: &[&Contexts]) -> Vec<OptimizedValue> {
    let mut found: Vec<_> = contexts.iter().map(|_| None).collect();
    optimize_values(model, contexts, LAYER, &config(), &Silent, &mut |request, value, _| {
        found[request] = Some(value);
        Ok(())
    })
    .unwrap();
    found.into_iter().map(Option::unwrap).collect()
}

struct NoText;

impl Corpora for NoText {
    fn documents(&self, _: &str) -> easyedit_core::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// Two subjects of as many tokens, so that their contexts have equal ids once both are inserted.
fn two_facts(model: &dyn LanguageModel) -> ([Contexts; 2], [Contexts; 2]) {
    let plain = ["Peru", "Chad"].map(|subject| contexts(model, subject));
    let rows = plain.each_ref().map(|contexts| with_inserts(model, contexts));
    for (a, b) in rows[0].rows.iter().zip(&rows[1].rows).take(rows[0].templates) {
        assert_eq!((a.row.ids(), a.fact_index), (b.row.ids(), b.fact_index));
        assert_ne!(a, b);
    }
    (plain, rows)
}

#[test]
fn values_are_those_of_the_inserted_tokens() {
    for family in FAMILIES {
        let model = tiny_model(family, 5).unwrap();
        let (plain, rows) = two_facts(&*model);
        let [a, b] = &rows;
        let found = optimize(&*model, &[a, b, a]);
        let [c, d] = &plain;
        assert_eq!(found, optimize(&*model, &[c, d, c]), "{family}");
        assert_ne!(found[0], found[1], "{family}");
        assert_eq!(found[0], found[2], "{family}");
    }
}

#[test]
fn equal_beginnings_are_run_once_and_others_apart() {
    for family in FAMILIES {
        let counted = Counted::default();
        let plain_model = tiny_model(family, 5).unwrap();
        let model = EditedModel::new(plain_model.clone(), "count", Overlay::default(), counted.clone());
        let (plain, rows) = two_facts(&*plain_model);
        let of = |contexts: &[&Contexts]| -> Vec<FactRow> {
            contexts.iter().flat_map(|contexts| contexts.rows[..contexts.templates].to_vec()).collect()
        };
        let keys = |contexts: &[&Contexts]| {
            let rows = of(contexts);
            counted.during(|| LayerWalk::new(&model, &rows.iter().collect::<Vec<_>>()).unwrap().keys(&model, LAYER).unwrap())
        };
        let ([a, b], [c, d]) = (&rows, &plain);
        let (tokens, found) = keys(&[a, b, a]);
        assert_eq!(found, keys(&[c, d, c]).1, "{family}");
        let half = found.shape()[0] / 3;
        let part = |index: usize| found.select_rows(&(index * half..(index + 1) * half).collect::<Vec<_>>());
        assert!(part(0) == part(2) && part(0) != part(1), "{family}");
        assert_eq!(tokens, keys(&[a, b]).0, "{family}: an equal row costs nothing");
        let apart = keys(&[a]).0 + keys(&[b]).0;
        assert!(tokens < apart, "{family}: {tokens} tokens, and {apart} apart: the beginnings before the inserts are shared");

        // Values: of a second row that is equal, the tokens before the fact are not run again.
        let run = |contexts: &[&Contexts]| counted.during(|| optimize(&model, contexts)).0;
        let suffixes = |contexts: &Contexts| contexts.rows.iter().map(|row| row.row.len() - row.fact_index).sum::<usize>();
        let (one, equal, two) = (run(&[a]), run(&[a, a]), run(&[a, b]));
        assert_eq!(suffixes(a), suffixes(b));
        assert!(one < equal && equal < two, "{family}: {one}, {equal}, {two} tokens");
    }
}

#[test]
fn cached_values_are_told_apart_by_their_inserts() {
    let model = tiny_model("llama", 5).unwrap();
    let (_, [a, b]) = two_facts(&*model);
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_owned();
    let context = Session::new().with_corpora(NoText).with_cache(&cache);
    let files = || std::fs::read_dir(folder.path().join("values")).unwrap().count();
    let first = cached_values(&*model, &[a.clone(), b.clone()], LAYER, &config(), &context).unwrap();
    assert_eq!(files(), 2);
    assert_ne!(first[0], first[1]);
    let again = cached_values(&*model, &[b, a], LAYER, &config(), &context).unwrap();
    assert_eq!((&again[0], &again[1], files()), (&first[1], &first[0], 2));
}

#[test]
fn losses_are_those_of_the_inserted_tokens() {
    for family in ["gpt2", "llama", "t5"] {
        let model = tiny_model(family, 5).unwrap();
        let row = |prompt: &str| {
            TrainingRow::teacher_forced(
                &TrainingRow::tokens_of(&*model, &CheckedRequest::new(EditRequest::new(prompt, "", "Rome")).unwrap(), true).unwrap(),
            )
        };
        let plain = ["The seat of Peru is", "The seat of Chad is"].map(row);
        let rows = plain.clone().map(|mut text| {
            let prompt = if text.source.is_empty() { &mut text.row } else { &mut text.source };
            *prompt = inserted(&*model, prompt, 12..16);
            text
        });
        assert_eq!((rows[0].source.ids(), rows[0].row.ids()), (rows[1].source.ids(), rows[1].row.ids()), "{family}");
        let head = ParamName::new(format!("{}.weight", model.spec().modules.final_norm));
        for trained in [head, model.spec().mlp_out_weight(1), model.parameter_names()[0].clone()] {
            let losses = |rows: &[TrainingRow]| {
                TargetLoss::new(&*model, rows, std::slice::from_ref(&trained)).unwrap().forward(&*model).unwrap().row_losses
            };
            let found = losses(&rows);
            assert_eq!(found, losses(&plain), "{family}");
            assert_ne!(found[0], found[1], "{family}");
        }
    }
}

#[test]
fn traces_are_those_of_the_inserted_tokens() {
    for family in FAMILIES {
        let model = tiny_model(family, 5).unwrap();
        let prompt = |text: &str| TracePrompt { row: model.tokenizer().encode(text).unwrap().ids.into(), subject: 4..8, answer: 9 };
        let plain = ["And Peru has", "And Chad has"].map(prompt);
        let rows = plain.clone().map(|mut prompt| {
            // From before the subject to inside of it.
            prompt.row = inserted(&*model, &prompt.row, 2..7);
            prompt
        });
        let restorations = [Restoration { tokens: 6..7, layers: 1..2, module: Module::MlpOutput }];
        let config = TraceConfig { samples: 2, noise: 0.5, seed: 1, ..TraceConfig::default() };
        let traced = |prompt: &TracePrompt| trace(&*model, prompt, &restorations, &config, &Silent).unwrap();
        let found = rows.each_ref().map(traced);
        assert_eq!(found, plain.each_ref().map(traced), "{family}");
        assert_ne!(found[0], found[1], "{family}");
        let deviation = |prompt: &TracePrompt| embedding_deviation(&*model, prompt.row.as_slice()).unwrap();
        assert_eq!(rows.each_ref().map(deviation), plain.each_ref().map(deviation), "{family}");
    }
}
