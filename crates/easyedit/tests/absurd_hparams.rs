//! Absurd values of every hyperparameter of every method: an error that names the key, before anything is computed.
#![cfg(all(
    feature = "rome",
    feature = "memit",
    feature = "emmet",
    feature = "pmet",
    feature = "alphaedit",
    feature = "ft",
    feature = "lora",
    feature = "grace",
    feature = "kn",
    feature = "ike",
    feature = "mend",
    feature = "serac",
    feature = "ft-api"
))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit::models::tiny::tiny_model;
use easyedit::{Hparams, HparamsDocument, Method};

const NUMBERS: [f64; 6] = [1e18, -1e18, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300];

/// Tries every key of `H` but those in `unread`, whose values nobody reads.
fn absurd_values_are_named<H: Hparams>(by_rule: &H, unread: &[&str]) {
    let original = HparamsDocument::from_hparams(by_rule, "absurd.yaml").unwrap();
    original.read::<H>().unwrap();
    let values = original.to_json().unwrap();
    let check = |key: &str, shape: String, change: &dyn Fn(&mut HparamsDocument)| {
        let mut document = original.clone();
        change(&mut document);
        match document.read::<H>() {
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(key) && message.contains("absurd.yaml"), "{} {key}: {shape}: {message}", H::METHOD);
            }
            // A value that stands for none, such as a whole number as a bound of FT.
            Ok(read) => {
                let read = serde_json::to_value(&read).unwrap();
                assert_eq!(read.get(key), values.get(key), "{} {key}: {shape} was taken", H::METHOD);
            }
        }
    };
    for key in H::KEYS.iter().copied().filter(|key| !unread.contains(key)) {
        for number in NUMBERS {
            check(key, format!("{number}"), &|document| document.set(key, number));
            check(key, format!("[{number}]"), &|document| document.set(key, vec![number]));
            check(key, format!("[{number}, {number}, {number}]"), &|document| document.set(key, vec![number; 3]));
            check(key, format!("[[{number}, {number}]]"), &|document| document.set(key, vec![vec![number; 2]]));
        }
        for whole in [1u64 << 63, u64::MAX] {
            check(key, format!("{whole}"), &|document| document.set(key, whole));
            check(key, format!("[{whole}]"), &|document| document.set(key, vec![whole]));
            check(key, format!("[{whole}, {whole}, {whole}]"), &|document| document.set(key, vec![whole; 3]));
            check(key, format!("[[1, {whole}]]"), &|document| document.set(key, vec![vec![1, whole]]));
            check(key, format!("[[{whole}, 1]]"), &|document| document.set(key, vec![vec![whole, 1]]));
        }
        check(key, "a long list".into(), &|document| document.set(key, (0..10_000u64).collect::<Vec<u64>>()));
        check(key, "many pairs".into(), &|document| document.set(key, vec![vec![1u64, 1]; 10_000]));
    }
}

fn by_rule<M: Method>() -> M::Hparams {
    M::hparams_for(tiny_model("llama", 1).unwrap().spec())
}

#[test]
fn absurd_values_of_rome_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_rome::Rome>(), &["device"]);
}

#[test]
fn absurd_values_of_memit_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_memit::Memit>(), &["device"]);
}

#[test]
fn absurd_values_of_emmet_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_emmet::Emmet>(), &["device"]);
}

#[test]
fn absurd_values_of_pmet_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_pmet::Pmet>(), &["device"]);
}

#[test]
fn absurd_values_of_alphaedit_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_alphaedit::AlphaEdit>(), &["device"]);
}

#[test]
fn absurd_values_of_ft_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_ft::Ft>(), &["device"]);
}

#[test]
fn absurd_values_of_lora_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_lora::Lora>(), &["device", "norm_constraint"]);
}

#[test]
fn absurd_values_of_grace_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_grace::Grace>(), &["device", "val_reg", "reg", "num_pert", "dropout"]);
}

#[test]
fn absurd_values_of_kn_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_kn::Kn>(), &["device", "lr_scale", "n_toks"]);
}

#[test]
fn absurd_values_of_ike_are_named() {
    absurd_values_are_named(&by_rule::<easyedit_ike::Ike>(), &["device"]);
}

#[test]
fn absurd_values_of_mend_are_named() {
    // Kept for EasyEdit's files, but for the seed, which may be any.
    let unread = [
        "device",
        "model_class",
        "tokenizer_class",
        "tokenizer_name",
        "no_grad_layers",
        "hidden_dim",
        "iedit",
        "cbase",
        "eval_log_interval",
        "max_length",
        "seed",
    ];
    absurd_values_are_named(&by_rule::<easyedit::mend::Mend>(), &unread);
}

#[test]
fn absurd_values_of_serac_are_named() {
    // Kept for EasyEdit's files, but for the seed, which may be any.
    let unread = [
        "device",
        "model_class",
        "tokenizer_class",
        "tokenizer_name",
        "cls_class",
        "model_parallel",
        "inner_params",
        "edit_lr",
        "lr_lr",
        "cbase",
        "dropout",
        "train_base",
        "no_grad_layers",
        "checkpoint_grad",
        "lora",
        "edit_bs",
        "silent",
        "half",
        "save",
        "debug",
        "log_errors",
        "unlikelihood",
        "results_dir",
        "max_length",
        "seed",
    ];
    absurd_values_are_named(&by_rule::<easyedit::serac::Serac>(), &unread);
}

#[test]
fn absurd_values_of_ft_api_are_named() {
    absurd_values_are_named(&easyedit_ft_api::FtApiHparams::for_model("gpt-3.5-turbo"), &[]);
}
