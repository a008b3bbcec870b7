//! The memory and who answers, on small random networks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod support;

use std::path::Path;
use std::sync::Arc;

use easyedit_core::tokens::{encode_prompt, encode_with_target};
use easyedit_core::{Edit, EditMethod, GenerationConfig, LanguageModel, Method, Predictor, Sampling, Silent, TargetScore, generate};
use easyedit_models::Checkpoint;
use easyedit_models::tiny::tiny_model;
use easyedit_serac::{Memory, Networks, RoutedPredictor, Routing, ScopedMemory, Serac, SeracHparams, Threshold};
use support::{encoder_with, hparams, networks, registry, requests, session, untrained};

const FAR: &str = "Mountains of the north are";
const HARD: Routing = Routing::Hard { threshold: 0.5 };

fn routed(base: &dyn LanguageModel, networks: Networks, count: usize, routing: Routing) -> RoutedPredictor {
    let memory = Memory::of(&requests()[..count], &networks.classifier).unwrap();
    let scope = ScopedMemory::new(Arc::new(networks), memory, base).unwrap();
    RoutedPredictor::new(base.boxed_clone(), scope, routing).unwrap()
}

fn score(predictor: &dyn Predictor, prompt: &str, target: &str) -> TargetScore {
    let row = encode_with_target(predictor, prompt, target).unwrap();
    predictor.score(&[&row], &Silent).unwrap().remove(0)
}

fn text(predictor: &dyn Predictor, prompt: &str, config: GenerationConfig) -> String {
    let row = encode_prompt(predictor, prompt).unwrap();
    generate(predictor, &[row], &config).unwrap()[0].text(predictor).unwrap()
}

#[test]
fn an_empty_memory_is_the_base_model() {
    for family in ["gpt2", "t5"] {
        let base = tiny_model(family, 2).unwrap();
        for routing in [HARD, Routing::Soft] {
            let small = if family == "t5" { "t5" } else { "llama" };
            let under = routed(&*base, networks(&SeracHparams { small_name: small.into(), ..hparams() }), 0, routing);
            assert_eq!(score(&under, FAR, "cold"), score(&*base, FAR, "cold"), "{family}");
            assert_eq!(text(&under, FAR, GenerationConfig::greedy(6)), text(&*base, FAR, GenerationConfig::greedy(6)));
        }
    }
}

#[test]
fn an_edits_own_prompt_has_a_score_of_one_and_the_counterfactual_model_answers() {
    for (base, small) in [("gpt2", "llama"), ("t5", "llama"), ("gpt2", "t5"), ("t5", "t5")] {
        let base = tiny_model(base, 2).unwrap();
        let networks = networks(&SeracHparams { small_name: small.into(), ..hparams() });
        let other = networks.counterfactual.clone();
        let under = routed(&*base, networks, 3, HARD);
        let row = encode_prompt(&*base, "Zurich lies in").unwrap();
        let (query, nearest) = under.decide(&[row.as_slice()]).unwrap().remove(0);
        assert_eq!((query.as_str(), nearest.unwrap().entry, nearest.unwrap().score), ("Zurich lies in", 1, 1.0));
        let read = "Zurich lies in Peru Zurich lies in";
        assert_eq!(score(&under, "Zurich lies in", "Peru"), score(&*other, read, "Peru"));
        let config = GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(8) };
        let (ours, theirs) = (text(&under, "Zurich lies in", config), text(&*other, read, config));
        // Random models write broken characters, which take more bytes once they are text: the last ones may be cut off.
        let start = |text: &str| text.trim().chars().take(2).collect::<String>();
        assert_eq!(start(&ours), start(&theirs), "{small} under {}", base.spec().name);
    }
}

#[test]
fn far_queries_and_their_neighbours_in_a_batch_are_untouched() {
    let base = tiny_model("gpt2", 2).unwrap();
    let (one, three) = (routed(&*base, networks(&hparams()), 1, HARD), routed(&*base, networks(&hparams()), 3, HARD));
    for under in [&one, &three] {
        assert_eq!(score(under, FAR, "cold"), score(&*base, FAR, "cold"));
    }
    assert_eq!(score(&one, "Ada speaks", "Welsh"), score(&three, "Ada speaks", "Welsh"));
    // In one batch, drawn at random: every row has the stream it has without a memory.
    let prompts = [FAR, "Ada speaks", "Mountains have"].map(|prompt| encode_prompt(&*base, prompt).unwrap());
    let sampling = Sampling::Random { temperature: 1.0, top_k: None, top_p: None };
    let config = GenerationConfig { sampling, seed: 4, ..GenerationConfig::greedy(6) };
    let (under, plain) = (generate(&three, &prompts, &config).unwrap(), generate(&*base, &prompts, &config).unwrap());
    assert_eq!((&under[0], &under[2]), (&plain[0], &plain[2]));
    assert_ne!(under[1], plain[1]);
}

#[test]
fn the_mixture_lies_between_the_models() {
    let base = tiny_model("gpt2", 2).unwrap();
    let networks = networks(&hparams());
    let other = networks.counterfactual.clone();
    let under = routed(&*base, networks, 3, Routing::Soft);
    let (ours, theirs) = (score(&under, "Ada speaks", "Welsh"), score(&*other, "Ada speaks Welsh Ada speaks", "Welsh"));
    assert_eq!(ours.predicted, theirs.predicted);
    for (ours, theirs) in ours.log_probs.iter().zip(&theirs.log_probs) {
        assert!((ours - theirs).abs() < 1e-3, "s is 1: {ours} and {theirs}");
    }
    let config = GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(8) };
    assert_eq!(text(&under, "Ada speaks", config), text(&*other, "Ada speaks Welsh Ada speaks", config));
}

#[test]
fn different_vocabularies_are_routed_and_never_mixed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../data/golden");
    let device = easyedit_core::device::select("cpu").unwrap();
    let base = Checkpoint::open(&folder.join("gpt2")).unwrap().load(&device).unwrap();
    let tokenizer = base.tokenizer().clone();
    let mut networks = networks(&hparams());
    networks.classifier =
        easyedit_serac::ScopeClassifier::new(encoder_with("distilbert", tokenizer, 80), networks.classifier.rules(), 1).unwrap();
    let request = easyedit_core::EditRequest::new("w3 w4 w5", "", "w6 w7");
    let memory = Memory::of(&easyedit_core::CheckedRequest::all([request]).unwrap(), &networks.classifier).unwrap();
    let scope = ScopedMemory::new(Arc::new(networks.clone()), memory, &*base).unwrap();
    let error = RoutedPredictor::new(base.clone(), scope.clone(), Routing::Soft).unwrap_err().to_string();
    assert!(error.contains("vocabularies differ") && error.contains("soft_weighting: false"), "{error}");
    let under = RoutedPredictor::new(base.clone(), scope, HARD).unwrap();
    let ours = score(&under, "w3 w4 w5", "w6 w7");
    assert_eq!(ours, score(&*networks.counterfactual, "w3 w4 w5 w6 w7 w3 w4 w5", "w6 w7"));
    // Five bytes of the target, and a space before them, in the tokens of the model that answers.
    assert_eq!(ours.target.len(), 6);
}

#[test]
fn edits_accumulate_are_kept_in_files_and_are_forgotten() {
    let hparams = hparams();
    let session = session(untrained(&hparams));
    let base = tiny_model("gpt2", 2).unwrap();
    let edit = |model: &dyn LanguageModel, requests: &[easyedit_core::CheckedRequest]| -> Edit {
        Serac::new(hparams.clone()).edit(model, requests, &session).unwrap()
    };
    let lay = |edits: &[Edit]| registry().apply_in(&session, edits, base.boxed_clone()).unwrap();
    let requests = requests();
    let at_once = edit(&*base, &requests);
    let mut sequence = Vec::new();
    let mut model = base.boxed_clone();
    for request in &requests {
        let one = edit(&*model, std::slice::from_ref(request));
        model = registry().apply_in(&session, std::slice::from_ref(&one), model).unwrap();
        sequence.push(one);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serac.edit.safetensors");
    at_once.save(&path).unwrap();
    let scores = |model: &dyn LanguageModel| {
        requests.iter().map(|request| score(model, request.prompt(), request.target_new())).collect::<Vec<TargetScore>>()
    };
    let want = scores(&*lay(std::slice::from_ref(&at_once)));
    assert_eq!(want, scores(&*model));
    assert_eq!(want, scores(&*lay(&sequence)));
    assert_eq!(want, scores(&*lay(&[Edit::load(&path).unwrap()])));
    assert_ne!(want, scores(&*base));
    // Without the second request, as if it had never been there.
    let fewer = Serac::new(hparams.clone()).forget(&at_once, &[1]).unwrap();
    let left = lay(std::slice::from_ref(&fewer));
    let two = edit(&*base, &[requests[0].clone(), requests[2].clone()]);
    assert_eq!(scores(&*left), scores(&*lay(&[two])));
    assert_eq!(scores(&*left)[1], score(&*base, "Zurich lies in", "Peru"));
}

#[test]
fn a_later_edit_of_a_prompt_counts_until_it_is_forgotten() {
    let hparams = hparams();
    let session = session(untrained(&hparams));
    let base = tiny_model("gpt2", 2).unwrap();
    let again = easyedit_core::CheckedRequest::new(easyedit_core::EditRequest::new("Ada speaks", "", "Latin")).unwrap();
    let both = Serac::new(hparams.clone()).edit(&*base, &[requests()[0].clone(), again], &session).unwrap();
    let other = tiny_model("llama", 8).unwrap();
    let lay = |edit: &Edit| registry().apply_in(&session, std::slice::from_ref(edit), base.boxed_clone()).unwrap();
    let asked = |answer: &str| score(&*other, &format!("Ada speaks {answer} Ada speaks"), "Latin");
    assert_eq!(score(&*lay(&both), "Ada speaks", "Latin"), asked("Latin"));
    let first = Serac::new(hparams.clone()).forget(&both, &[1]).unwrap();
    assert_eq!(score(&*lay(&first), "Ada speaks", "Latin"), asked("Welsh"));
}

#[test]
fn what_does_not_fit_is_told_before_anything_is_edited() {
    let hparams = hparams();
    let base = tiny_model("gpt2", 2).unwrap();
    let prepare = |hparams: SeracHparams, trained: easyedit_core::Trained| {
        Serac::new(hparams).prepare(&*base, &session(trained)).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let trained = || untrained(&hparams);
    assert_eq!(prepare(hparams.clone(), trained()), "");
    let without = prepare(SeracHparams { archive: None, ..hparams.clone() }, trained());
    assert!(without.contains("archive is missing") && without.contains("easyedit train"), "{without}");
    let other = prepare(SeracHparams { small_name: "gpt2".into(), ..hparams.clone() }, trained());
    assert!(other.contains("replacement.") && other.contains("small_name"), "{other}");
    let unknown = prepare(SeracHparams { cls_name: "nowhere".into(), ..hparams.clone() }, trained());
    assert!(unknown.contains("cls_name") && unknown.contains("nowhere"), "{unknown}");
    let method = prepare(hparams.clone(), easyedit_core::Trained { method: "MEND".into(), ..trained() });
    assert!(method.contains("MEND"), "{method}");
    let heads = prepare(SeracHparams { dist_heads: 3, ..hparams.clone() }, trained());
    assert!(heads.contains("dist_heads is 3") && heads.contains("16"), "{heads}");
    let mut broken = trained();
    let name = "classifier.embeddings.LayerNorm.bias";
    let bias = broken.tensors.get(name).unwrap();
    broken.tensors.insert(name.into(), easyedit_core::HostTensor::vector(vec![f32::NAN; bias.values().len()]));
    assert!(prepare(hparams, broken).contains(name));
}

#[test]
fn memory_and_query_can_be_read_together() {
    let hparams = SeracHparams { cross_attend: true, threshold: Some(Threshold::At(0.2)), ..hparams() };
    let base = tiny_model("gpt2", 2).unwrap();
    let networks = networks(&hparams);
    assert!(networks.parameter_names().contains(&"classifier.bert.pooler.dense.weight".to_owned()));
    let edit = Serac::with_networks(hparams.clone(), networks.clone()).unwrap();
    let memory = Memory::of(&requests(), &networks.classifier).unwrap();
    let overlay = memory.to_overlay("x").unwrap();
    assert!(overlay.tensors.is_empty());
    assert_eq!(Memory::from_overlay(&overlay, &networks.classifier, "x").unwrap(), memory);
    // A random head gives scores near one half, which depend on both texts.
    let under = routed(&*base, networks.clone(), 3, Routing::Hard { threshold: 0.2 });
    let prompts = ["Ada speaks", FAR].map(|prompt| encode_prompt(&*base, prompt).unwrap());
    let found = under.decide(&[prompts[0].as_slice(), prompts[1].as_slice()]).unwrap();
    let scores: Vec<f64> = found.iter().map(|(_, nearest)| nearest.unwrap().score).collect();
    assert!(scores[0] != scores[1] && scores.iter().all(|score| (0.2..0.8).contains(score)), "{scores:?}");
    assert_eq!(edit.name(), "SERAC");
}
