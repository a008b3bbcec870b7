//! Training on small random networks: gradients, what is frozen, resuming, and what a trained file refuses.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod support;

use std::path::Path;

use easyedit_core::{CheckedRequest, EditMethod, EditRequest, EvaluationPrompt, LanguageModel, Method, Session, Trained, tensor_values};
use easyedit_models::tiny::tiny_model;
use easyedit_serac::{Pooling, Serac, SeracHparams, SeracLearner};
use easyedit_trainer::{Batch, MODEL_FILE, MetaLearner, Split, Trainer};
use support::{Given, hparams, networks, session};

fn records() -> Vec<CheckedRequest> {
    let record = |case_id, subject: &str, target: &str, rephrase: &str| EditRequest {
        case_id,
        rephrase_prompts: vec![rephrase.into()],
        locality: [("near".into(), vec![EvaluationPrompt::new("Bruno speaks", "Dutch")])].into(),
        ..EditRequest::new("The tongue of {} is", subject, target)
    };
    let records = [
        record(0, "Ada", "Welsh", "Ada speaks"),
        record(1, "Tom", "Latin", "Tom talks in"),
        record(2, "Zoe", "Greek", "Zoe dreams in"),
        record(3, "Kim", "Norse", "Kim writes"),
    ];
    CheckedRequest::all(records).unwrap()
}

fn training() -> SeracHparams {
    SeracHparams {
        archive: None,
        lr: 1e-3,
        batch_size: 2,
        accumulate_bs: 1,
        max_iters: Some(6),
        val_interval: 3,
        log_interval: 1,
        hard_neg_exclude: 0,
        random_subject: 0.5,
        swap_subject: 0.5,
        ..hparams()
    }
}

fn learner(hparams: &SeracHparams, base: &str) -> SeracLearner {
    let base = tiny_model(base, 2).unwrap();
    SeracLearner::with_networks(hparams.clone(), &*base, networks(hparams), &records(), &records()).unwrap()
}

fn batch() -> Batch {
    Batch { split: Split::Train, examples: vec![0, 1, 2], iteration: 4, seed: 9 }
}

/// Compares gradients of `loss/total` with differences, at the largest number of each gradient.
fn check_gradients(hparams: &SeracHparams, names: &[&str]) {
    const STEP: f32 = 4e-3;
    let mut learner = learner(hparams, "gpt2");
    let report = learner.step(&batch(), true).unwrap();
    for name in names {
        let value = learner.parameter(name).unwrap();
        let gradient = tensor_values(report.gradients.get(*name).unwrap_or_else(|| panic!("{name} has no gradient"))).unwrap();
        let (place, want) = gradient.iter().enumerate().max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs())).unwrap();
        let mut losses = [0f64; 2];
        for (loss, step) in losses.iter_mut().zip([STEP, -STEP]) {
            let mut numbers = tensor_values(&value).unwrap();
            numbers[place] += step;
            let moved = burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(numbers, value.dims()), &value.device());
            learner.set_parameter(name, moved).unwrap();
            *loss = learner.step(&batch(), false).unwrap().metrics["loss/total"].value;
        }
        learner.set_parameter(name, value).unwrap();
        let numeric = (losses[0] - losses[1]) / f64::from(2.0 * STEP);
        let want = f64::from(*want);
        assert!((numeric - want).abs() < 2e-3 + 0.02 * want.abs(), "{name}: {numeric} by differences, {want} by the graph; {hparams:?}");
    }
}

#[test]
fn gradients_are_those_of_differences_in_every_mode() {
    let encoder = ["classifier.embeddings.word_embeddings.weight", "classifier.encoder.layer.1.attention.self.value.weight"];
    let both = [encoder[0], encoder[1], "replacement.model.layers.1.mlp.up_proj.weight", "replacement.model.embed_tokens.weight"];
    let plain = SeracHparams { cedit: 1.0, ..training() };
    check_gradients(&plain, &both);
    check_gradients(&SeracHparams { supervised: false, ..plain.clone() }, &both);
    check_gradients(&SeracHparams { pooling: Pooling::Mean, bound_embeds: true, dist_heads: 2, ..plain.clone() }, &encoder);
    check_gradients(&SeracHparams { square: false, use_all_negatives: true, ..plain.clone() }, &encoder);
    let head = ["classifier.bert.embeddings.word_embeddings.weight", "classifier.bert.pooler.dense.weight", "classifier.classifier.bias"];
    check_gradients(&SeracHparams { cross_attend: true, ..plain }, &head);
}

#[test]
fn an_encoder_decoder_learns_to_copy_from_the_memory() {
    let hparams = SeracHparams { small_name: "t5".into(), lr: 3e-3, ..training() };
    let mut learner = learner(&hparams, "t5");
    let loss = |learner: &mut SeracLearner| learner.step(&batch(), false).unwrap().metrics["loss/total"].value;
    let before = loss(&mut learner);
    let dir = tempfile::tempdir().unwrap();
    let config = SeracHparams { max_iters: Some(20), ..hparams }.training_config().unwrap();
    Trainer::new(&mut learner, config, dir.path()).unwrap().run(&Session::new(), false).unwrap();
    assert!(loss(&mut learner) < 0.8 * before, "{before}");
}

#[test]
fn what_is_frozen_is_in_no_group() {
    let names = |hparams: &SeracHparams| -> Vec<String> {
        learner(hparams, "gpt2").groups().into_iter().flat_map(|group| group.parameters).collect()
    };
    let all = names(&training());
    assert_eq!(all.iter().filter(|name| name.starts_with("classifier.")).count(), 37);
    let last = names(&SeracHparams { freeze: Some(1), freeze_cntr: true, ..training() });
    assert!(last.len() == 16 && last.iter().all(|name| name.starts_with("classifier.encoder.layer.1.")), "{last:?}");
    let above = names(&SeracHparams { freeze_below: 2, ..training() });
    let replacement: Vec<&String> = above.iter().filter(|name| name.starts_with("replacement.")).collect();
    assert!(!replacement.is_empty() && replacement.iter().all(|name| name.starts_with("replacement.model.layers.2.")), "{replacement:?}");
    let base = tiny_model("gpt2", 2).unwrap();
    let nothing = SeracHparams { freeze: Some(0), freeze_cntr: true, ..training() };
    let error = SeracLearner::with_networks(nothing.clone(), &*base, networks(&nothing), &records(), &records()).unwrap_err().to_string();
    assert!(error.contains("nothing to train"), "{error}");
}

fn train(hparams: &SeracHparams, iterations: u64, folder: &Path, resume: bool) -> SeracLearner {
    let mut learner = learner(hparams, "gpt2");
    let config = SeracHparams { max_iters: Some(iterations), ..hparams.clone() }.training_config().unwrap();
    Trainer::new(&mut learner, config, folder).unwrap().run(&Session::new(), resume).unwrap();
    learner
}

#[test]
fn a_resumed_training_goes_the_way_of_one_that_was_not_stopped() {
    let hparams = SeracHparams { random_target: 0.5, final_eval: false, ..training() };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let want = train(&hparams, 6, whole.path(), false).state().unwrap();
    train(&hparams, 4, parts.path(), false);
    let got = train(&hparams, 6, parts.path(), true).state().unwrap();
    assert!(want == got, "the parameters differ");
    let start = learner(&hparams, "gpt2").state().unwrap();
    assert!(start != got, "nothing was trained");
}

#[test]
fn a_trained_file_is_taken_by_its_base_model_alone() {
    let hparams = training();
    let dir = tempfile::tempdir().unwrap();
    train(&hparams, 3, dir.path(), false);
    let trained = Trained::load(&dir.path().join(MODEL_FILE)).unwrap();
    let prepare = |hparams: SeracHparams, base: &dyn LanguageModel, trained: Trained| {
        let hparams = SeracHparams { archive: Some("file".into()), ..hparams };
        Serac::new(hparams).prepare(base, &session(trained)).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let (own, other) = (tiny_model("gpt2", 2).unwrap(), tiny_model("gpt2", 3).unwrap());
    assert_eq!(prepare(hparams.clone(), &*own, trained.clone()), "");
    let weights = prepare(hparams.clone(), &*other, trained.clone());
    assert!(weights.contains("other weights") && weights.contains("any_base"), "{weights}");
    assert_eq!(prepare(SeracHparams { any_base: true, ..hparams.clone() }, &*other, trained.clone()), "");
    let rules = prepare(SeracHparams { cos: true, ..hparams.clone() }, &*own, trained.clone());
    assert!(rules.contains("was trained with scores"), "{rules}");
    let mut renamed = trained.clone();
    renamed.facts["encoder"]["vocabulary"] = "another".into();
    let tokenizer = prepare(hparams.clone(), &*own, renamed);
    assert!(tokenizer.contains("cls_name") && tokenizer.contains("another vocabulary"), "{tokenizer}");
    let session = Session::new().with_corpora(Given { trained: None });
    let missing = Serac::new(SeracHparams { archive: Some("file".into()), ..hparams }).prepare(&*own, &session).unwrap_err().to_string();
    assert!(missing.contains("file"), "{missing}");
}

#[test]
fn a_mixture_of_different_vocabularies_is_not_trained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../data/golden/gpt2");
    let device = easyedit_core::device::select("cpu").unwrap();
    let base = easyedit_models::Checkpoint::open(&folder).unwrap().load(&device).unwrap();
    let hparams = SeracHparams { supervised: false, ..training() };
    let error = SeracLearner::with_networks(hparams.clone(), &*base, networks(&hparams), &records(), &records()).unwrap_err().to_string();
    assert!(error.contains("vocabularies differ") && error.contains("supervised: true"), "{error}");
}

#[test]
fn an_automatic_threshold_is_chosen_by_the_validation_and_kept_in_the_file() {
    let hparams = SeracHparams { threshold: Some(easyedit_serac::Threshold::Auto), ..training() };
    let dir = tempfile::tempdir().unwrap();
    train(&hparams, 3, dir.path(), false);
    let chosen = Trained::load(&dir.path().join(MODEL_FILE)).unwrap().facts["threshold"].as_f64().unwrap();
    // Random networks do not part queries at one half.
    assert!(chosen > 0.0 && chosen < 1.0 && chosen != 0.5, "{chosen}");
    let plain = tempfile::tempdir().unwrap();
    train(&training(), 3, plain.path(), false);
    assert_eq!(Trained::load(&plain.path().join(MODEL_FILE)).unwrap().facts["threshold"], 0.5);
}
