//! The passes of a trace against passes that are run whole, one by one, on the small models of every family.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;

use burn::tensor::Tensor;
use easyedit_core::tokens::{FactToken, SubjectPrompt};
use easyedit_core::{Capture, LanguageModel, Module, Pass, Probe, Silent, Site, TokenBatch, tensor_values};
use easyedit_kernels::{Restoration, Trace, TraceConfig, TracePrompt, subject_noise, trace};
use easyedit_tiny_world::{Fact, facts, is_encoder_decoder, model, model_names};

const HIDDEN: Module = Module::BlockOutput;
const SEED: u64 = 5;
const NOISE: f64 = 0.4;
const SAMPLES: usize = 3;

fn decoders() -> impl Iterator<Item = &'static str> {
    model_names().filter(|name| !is_encoder_decoder(name))
}

/// A fact as the kernel takes it.
fn prompt(model: &dyn LanguageModel, fact: &Fact) -> TracePrompt {
    let split = SubjectPrompt::find(&fact.prompt, &fact.subject).unwrap();
    let (encoded, target) = split.encode_with_target(model.tokenizer(), FactToken::SubjectLast, &fact.object).unwrap();
    TracePrompt { row: encoded.row.prefix(encoded.prompt_tokens).to_row(), subject: encoded.subject, answer: target.target()[0] }
}

/// A fact whose subject has several tokens and does (or does not) begin the prompt.
fn fact(model: &dyn LanguageModel, begins: bool) -> TracePrompt {
    let prompts = facts().iter().map(|fact| prompt(model, fact));
    prompts.into_iter().find(|p| (p.subject.start <= 1) == begins && p.subject.len() > 1 && p.subject.end < p.row.len()).unwrap()
}

fn config() -> TraceConfig {
    TraceConfig { samples: SAMPLES, noise: NOISE, seed: SEED, batch_tokens: 1024 }
}

fn run(model: &dyn LanguageModel, prompt: &TracePrompt, restorations: &[Restoration], config: &TraceConfig) -> Trace {
    trace(model, prompt, restorations, config, &Silent).unwrap()
}

/// Adds noise to some tokens of the embeddings, and puts states back.
struct Naive<'a> {
    noise: Option<(Range<usize>, Tensor<2>)>,
    restoration: Option<&'a Restoration>,
    clean: Option<&'a Capture>,
}

impl Probe for Naive<'_> {
    fn at(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
        let [tokens, width] = x.dims();
        if let (Module::Embedding, Some((at, noise))) = (site.module, &self.noise) {
            let zeros = Tensor::zeros([tokens, width], &x.device());
            return x + zeros.slice_assign([at.clone(), 0..width], noise.clone());
        }
        match (self.restoration, self.clean) {
            (Some(one), Some(clean)) if one.module == site.module && one.layers.contains(&site.layer) => {
                let states = clean.get(site).unwrap().clone().narrow(0, one.tokens.start, one.tokens.len());
                x.slice_assign([one.tokens.clone(), 0..width], states)
            }
            _ => x,
        }
    }
}

/// The answer's probability after a whole pass of one row.
fn whole(model: &dyn LanguageModel, prompt: &TracePrompt, probe: &mut dyn Probe) -> f64 {
    let mut pass = Pass::new(TokenBatch::new(&[&prompt.row]).unwrap(), &model.device());
    let hidden = model.hidden(&mut pass, probe).unwrap();
    let logits: Vec<f64> =
        tensor_values(&model.logits(hidden, &[prompt.row.len() - 1]).unwrap()).unwrap().into_iter().map(f64::from).collect();
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    let total: f64 = logits.iter().map(|v| (v - largest).exp()).sum();
    (logits[prompt.answer as usize] - largest).exp() / total
}

fn naive(model: &dyn LanguageModel, prompt: &TracePrompt, restorations: &[Restoration]) -> Trace {
    let sites = (0..model.spec().n_layers).flat_map(|l| [HIDDEN, Module::MlpOutput, Module::AttentionOutput].map(|m| Site::new(l, m)));
    let mut states = Capture::new(sites);
    let clean = whole(model, prompt, &mut states);
    let sample = |sample: usize, restoration: Option<&Restoration>| {
        let noise = subject_noise(SEED, sample..sample + 1, prompt.subject.len(), model.spec().d_model, NOISE).unwrap();
        let noise = Some((prompt.subject.clone(), noise.to_tensor(&model.device())));
        whole(model, prompt, &mut Naive { noise, restoration, clean: Some(&states) })
    };
    let samples = |restoration: Option<&Restoration>| -> Vec<f64> { (0..SAMPLES).map(|i| sample(i, restoration)).collect() };
    Trace { clean, corrupted: samples(None), restored: restorations.iter().map(|one| samples(Some(one))).collect() }
}

/// Single layers and windows of every kind, at every token from one before the subject on; and spans of tokens.
fn many(prompt: &TracePrompt, depth: usize) -> Vec<Restoration> {
    let mut all = Vec::new();
    for token in prompt.subject.start.saturating_sub(1)..prompt.row.len() {
        for module in [HIDDEN, Module::MlpOutput, Module::AttentionOutput] {
            for layers in [0..1, depth - 1..depth, 1..depth, 0..2] {
                all.push(Restoration { tokens: token..token + 1, layers, module });
            }
        }
    }
    for module in [HIDDEN, Module::MlpOutput] {
        all.push(Restoration { tokens: 0..prompt.subject.end, layers: 0..depth, module });
        all.push(Restoration { tokens: prompt.subject.clone(), layers: 1..2, module });
    }
    all
}

fn largest_difference(a: &Trace, b: &Trace) -> f64 {
    let flat = |t: &Trace| -> Vec<f64> {
        std::iter::once(t.clean).chain(t.corrupted.iter().copied()).chain(t.restored.iter().flatten().copied()).collect()
    };
    let (a, b) = (flat(a), flat(b));
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn restored_passes_are_what_whole_passes_give_in_every_family() {
    for name in decoders() {
        let model = model(name).unwrap();
        for begins in [false, true] {
            let prompt = fact(&*model, begins);
            let restorations = many(&prompt, model.spec().n_layers);
            let want = naive(&*model, &prompt, &restorations);
            let got = run(&*model, &prompt, &restorations, &config());
            let difference = largest_difference(&got, &want);
            assert!(difference < 1e-4, "{name}: differs by {difference:.1e}");
            let moved = want.restored.iter().flatten().zip(want.corrupted.iter().cycle()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(moved > 0.01, "{name}: no restoration changes anything, the comparison would be void");
        }
    }
}

#[test]
fn everything_restored_is_clean_and_nothing_restored_is_corrupted() {
    for name in decoders() {
        let model = model(name).unwrap();
        let prompt = fact(&*model, false);
        let (tokens, depth) = (prompt.row.len(), model.spec().n_layers);
        let of = |tokens: Range<usize>, layers: Range<usize>| Restoration { tokens, layers, module: HIDDEN };
        let everything = of(prompt.subject.start..tokens, 0..1);
        let the_end = of(tokens - 1..tokens, depth - 1..depth);
        let nothing = of(0..prompt.subject.start, 0..depth);
        let traced = run(&*model, &prompt, &[everything, the_end, nothing], &config());
        for clean in traced.restored[..2].iter().flatten() {
            assert!((clean - traced.clean).abs() < 1e-5, "{name}: {clean} is not {}", traced.clean);
        }
        assert_eq!(traced.restored[2], traced.corrupted, "{name}");
        let corrupted = traced.corrupted.iter().sum::<f64>() / SAMPLES as f64;
        assert!(corrupted < traced.clean - 0.1, "{name}: noise does not corrupt: {corrupted} of {}", traced.clean);
    }
}

#[test]
fn batches_and_numbers_of_samples_change_nothing() {
    let model = model("llama").unwrap();
    let prompt = fact(&*model, false);
    let restorations = many(&prompt, model.spec().n_layers);
    let all = run(&*model, &prompt, &restorations, &config());
    assert_eq!(all, run(&*model, &prompt, &restorations, &config()), "the same seed gives the same numbers");
    for batch_tokens in [1, 20, 50] {
        let small = run(&*model, &prompt, &restorations, &TraceConfig { batch_tokens, ..config() });
        assert!(largest_difference(&all, &small) < 1e-5, "batches of {batch_tokens} tokens");
    }
    let fewer = run(&*model, &prompt, &restorations, &TraceConfig { samples: 2, ..config() });
    let difference = all.restored.iter().zip(&fewer.restored).flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| (a - b).abs());
    assert!(difference.fold(0.0, f64::max) < 1e-5, "a sample does not depend on those after it");
    let other = run(&*model, &prompt, &restorations, &TraceConfig { seed: SEED + 1, ..config() });
    assert!(largest_difference(&all, &other) > 1e-3, "another seed gives other noise");
}

#[test]
fn what_is_out_of_range_is_named() {
    let model = model("gpt2").unwrap();
    let good = fact(&*model, false);
    let (tokens, depth) = (good.row.len(), model.spec().n_layers);
    let restoration = Restoration { tokens: 0..1, layers: 0..1, module: HIDDEN };
    let fails = |prompt: &TracePrompt, restoration: Restoration, config: TraceConfig, part: &str| {
        let message = trace(&*model, prompt, &[restoration], &config, &Silent).unwrap_err().to_string();
        assert!(message.contains(part), "{message} does not name {part}");
    };
    fails(&TracePrompt { subject: 2..tokens + 1, ..good.clone() }, restoration.clone(), config(), "subject");
    fails(&TracePrompt { subject: 2..2, ..good.clone() }, restoration.clone(), config(), "subject");
    fails(&TracePrompt { answer: 1 << 30, ..good.clone() }, restoration.clone(), config(), "answer");
    fails(&good, Restoration { layers: 0..depth + 1, ..restoration.clone() }, config(), &format!("layer {depth}"));
    fails(&good, Restoration { layers: 1..1, ..restoration.clone() }, config(), "layers");
    fails(&good, Restoration { tokens: 1..tokens + 1, ..restoration.clone() }, config(), "restored tokens");
    fails(&good, Restoration { module: Module::MlpKey, ..restoration.clone() }, config(), "MlpKey");
    fails(&good, restoration.clone(), TraceConfig { samples: 0, ..config() }, "sample");
    fails(&good, restoration.clone(), TraceConfig { noise: f64::INFINITY, ..config() }, "inf");
    let encoder_decoder = easyedit_tiny_world::model("t5").unwrap();
    let message = trace(&*encoder_decoder, &good, &[restoration], &config(), &Silent).unwrap_err().to_string();
    assert!(message.contains("encoder-decoder"), "{message}");
}
