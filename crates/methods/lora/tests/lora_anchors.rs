//! What must hold for LoRA and AdaLoRA on any model, checked on small random ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../../memit/tests/support/mod.rs"]
mod support;

use easyedit_core::{CheckedRequest, EditMethod, LanguageModel, Method, WeightDelta};
use easyedit_kernels::{TargetLoss, TrainingRow};
use easyedit_lora::{Lora, LoraHparams, LoraType, Sequential};
use easyedit_models::tiny::tiny_model;
use support::*;

fn hparams(model: &dyn LanguageModel, lora_type: LoraType) -> LoraHparams {
    LoraHparams { lora_type, rank: 4, num_steps: 60, lr: 2e-2, early_stop_loss: None, ..LoraHparams::for_spec(model.spec()) }
}

fn loss(model: &dyn LanguageModel, requests: &[CheckedRequest]) -> f64 {
    let row = |request| TrainingRow::teacher_forced(&TrainingRow::tokens_of(model, request, true).unwrap());
    let rows: Vec<TrainingRow> = requests.iter().map(row).collect();
    TargetLoss::new(model, &rows, &[]).unwrap().forward(model).unwrap().loss
}

fn ranks(edit: &easyedit_core::Edit) -> Vec<usize> {
    edit.deltas.values().map(|change| change.delta.rank().expect("a low-rank change")).collect()
}

#[test]
fn facts_are_learned_by_low_rank_changes_of_queries_and_values() {
    for family in ["gpt2", "llama", "gptj", "gpt_neo", "gpt_neox", "opt", "baichuan", "chatglm", "internlm", "t5"] {
        let model = tiny_model(family, 51).unwrap();
        for lora_type in [LoraType::Lora, LoraType::AdaLora] {
            let (made, edited) = edit(&mut Lora::new(hparams(&*model, lora_type)), &*model, &requests());
            let (before, after) = (loss(&*model, &requests()), loss(&*edited, &requests()));
            let reached = if family == "t5" { 0.9 } else { 0.8 };
            assert!(after < reached * before, "{family} {lora_type:?}: {before} {after}");
            // The change is the one that was trained: the edited model goes on from the last loss.
            let last = made.diagnostics["losses"].as_array().unwrap().last().unwrap().as_f64().unwrap();
            assert!((after - last).abs() < 0.2 * last + 0.05, "{family} {lora_type:?}: {last} {after}");
            for change in made.deltas.values() {
                assert!(matches!(change.delta, WeightDelta::LowRank { .. }));
            }
        }
    }
}

#[test]
fn a_rank_beyond_the_models_width_is_refused() {
    let model = tiny_model("llama", 51).unwrap();
    for (hparams, key) in [
        (LoraHparams { rank: 5000, ..hparams(&*model, LoraType::Lora) }, "rank is 5000"),
        (LoraHparams { init_r: Some(6000), ..hparams(&*model, LoraType::AdaLora) }, "init_r is 6000"),
    ] {
        let message = Lora::new(hparams).edit(&*model, &requests(), &session()).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains("no weight has a higher rank"), "{message}");
    }
}

#[test]
fn plain_adapters_have_the_rank_asked_for_and_pruned_ones_the_budget() {
    let model = tiny_model("llama", 52).unwrap();
    // Six weights: queries and values of three layers.
    let (plain, _) = edit(&mut Lora::new(hparams(&*model, LoraType::Lora)), &*model, &requests());
    assert_eq!(ranks(&plain), [4; 6]);
    let pruned = LoraHparams { init_r: Some(10), ..hparams(&*model, LoraType::AdaLora) };
    let (pruned, edited) = edit(&mut Lora::new(pruned), &*model, &requests());
    let left = ranks(&pruned);
    assert_eq!(left.iter().sum::<usize>(), 24, "{left:?}");
    assert!(left.iter().any(|rank| *rank != 4), "weights compete: {left:?}");
    let told: usize = pruned.diagnostics["ranks"].as_object().unwrap().values().map(|rank| rank.as_u64().unwrap() as usize).sum();
    assert_eq!(told, 24);
    assert!(loss(&*edited, &requests()) < 0.8 * loss(&*model, &requests()));
    // Without ranks to spare nothing is pruned.
    let exact = LoraHparams { init_r: Some(4), ..hparams(&*model, LoraType::AdaLora) };
    assert_eq!(ranks(&edit(&mut Lora::new(exact), &*model, &requests()).0), [4; 6]);
}

#[test]
fn a_seed_decides_the_edit() {
    let model = tiny_model("gpt2", 53).unwrap();
    for lora_type in [LoraType::Lora, LoraType::AdaLora] {
        let hparams = LoraHparams { lora_dropout: 0.2, num_steps: 10, ..hparams(&*model, lora_type) };
        let made = |seed| Lora::new(hparams.clone()).edit(&*model, &requests(), &session().with_seed(seed)).unwrap();
        assert_eq!(made(1), made(1));
        assert_ne!(made(1).deltas, made(2).deltas);
    }
}

#[test]
fn modules_are_named_by_the_end_of_their_paths() {
    let model = tiny_model("llama", 54).unwrap();
    let with = |targets: &[&str], layers: &[usize]| LoraHparams {
        target_modules: targets.iter().map(|target| (*target).to_owned()).collect(),
        layers: layers.to_vec(),
        num_steps: 2,
        ..hparams(&*model, LoraType::Lora)
    };
    let names = |targets: &[&str], layers: &[usize]| -> Vec<String> {
        let (made, _) = edit(&mut Lora::new(with(targets, layers)), &*model, &requests());
        made.deltas.keys().map(ToString::to_string).collect()
    };
    assert_eq!(names(&["mlp.down_proj"], &[2]), ["model.layers.2.mlp.down_proj.weight"]);
    assert_eq!(names(&["q_proj", "o_proj"], &[0, 1]).len(), 4);
    assert_eq!(names(&["mlp_out"], &[1]), ["model.layers.1.mlp.down_proj.weight"]);
    assert_eq!(names(&["lm_head"], &[]), ["lm_head.weight"]);
    assert_eq!(names(&["model.embed_tokens"], &[]), ["model.embed_tokens.weight"]);
    for (targets, layers, part) in [
        (&["c_attn"][..], &[][..], "down_proj, gate_proj, k_proj"),
        (&["proj"], &[], "no module \"proj\""),
        (&["q_proj"], &[7], "layer 7"),
        (&["lm_head"], &[0], "lm_head"),
    ] {
        let message = Lora::new(with(targets, layers)).prepare(&*model, &session()).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    let encoder_decoder = tiny_model("t5", 54).unwrap();
    let all = LoraHparams { target_modules: vec!["q".into()], ..hparams(&*encoder_decoder, LoraType::Lora) };
    let (made, _) = edit(&mut Lora::new(all), &*encoder_decoder, &requests());
    assert!(made.deltas.keys().any(|name| name.as_str().starts_with("encoder.")), "a name that was given is looked for everywhere");
}

#[test]
fn an_adapter_goes_on_where_the_model_carries_it() {
    let model = tiny_model("llama", 55).unwrap();
    let requests = requests();
    for lora_type in [LoraType::Lora, LoraType::AdaLora] {
        let hparams = LoraHparams { sequential: Sequential::Continue, init_r: None, ..hparams(&*model, lora_type) };
        let mut lora = Lora::new(hparams.clone());
        let (first, once) = edit(&mut lora, &*model, &requests[..1]);
        let (second, twice) = edit(&mut lora, &*once, &requests[1..2]);
        assert_eq!((&first.diagnostics["continued"], &second.diagnostics["continued"]), (&false.into(), &true.into()));
        // What it adds is the new factors less the old ones.
        for (name, change) in &second.deltas {
            let carried = first.deltas.get(name).and_then(|change| change.delta.rank()).unwrap_or(0);
            assert_eq!(change.delta.rank(), Some(2 * carried), "{name}");
        }
        // In all, the model differs from the first by one adapter: both changes have the rank of one.
        let loss_of = |model: &dyn LanguageModel| loss(model, &requests[1..2]);
        assert!(loss_of(&*twice) < 0.8 * loss_of(&*once), "{lora_type:?}");
        // A model without it gets a new one, and so does every model where adapters stack.
        let (fresh, _) = edit(&mut lora, &*model, &requests[1..2]);
        assert_eq!(fresh.diagnostics["continued"], false);
        let stacked = LoraHparams { sequential: Sequential::Stack, ..hparams };
        assert_eq!(fresh.deltas, edit(&mut Lora::new(stacked.clone()), &*model, &requests[1..2]).0.deltas);
        let mut stacking = Lora::new(stacked);
        let (_, once) = edit(&mut stacking, &*model, &requests[..1]);
        let (second, _) = edit(&mut stacking, &*once, &requests[1..2]);
        assert_eq!(second.diagnostics["continued"], false);
        assert_eq!(ranks(&second).iter().sum::<usize>(), 24);
    }
}

#[test]
fn training_ends_early_when_asked() {
    let model = tiny_model("llama", 56).unwrap();
    for lora_type in [LoraType::Lora, LoraType::AdaLora] {
        let enough = LoraHparams { early_stop_loss: Some(100.0), num_steps: 20, ..hparams(&*model, lora_type) };
        let (made, _) = edit(&mut Lora::new(enough), &*model, &requests());
        // AdaLoRA goes to its budget first.
        let steps = if lora_type == LoraType::Lora { 1 } else { 2 };
        assert_eq!(made.diagnostics["losses"].as_array().unwrap().len(), steps);
        assert_eq!(ranks(&made).iter().sum::<usize>(), 24);
    }
    let short = LoraHparams { t_init: Some(15), t_final: Some(5), num_steps: 20, ..hparams(&*model, LoraType::AdaLora) };
    assert!(Lora::new(short).edit(&*model, &requests(), &session()).unwrap_err().to_string().contains("t_init"));
}
