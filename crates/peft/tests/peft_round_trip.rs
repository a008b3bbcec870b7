//! Edits out and in again, on families that store weights differently.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use easyedit_core::{Edit, LanguageModel, Matrix, ParamName, TensorDelta, WeightDelta, apply_all};
use easyedit_models::tiny::tiny_model;
use easyedit_peft::{CONFIG_FILE, ExportOptions, WEIGHTS_FILE, export, import};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::json;
use support::{distance, edit_of, full, json, low_rank, noise};

/// Weights of a family, and the ranks of their changes.
const CASES: &[(&str, &[(&str, usize)])] = &[
    ("gpt2", &[("transformer.h.0.mlp.c_proj", 1), ("transformer.h.1.attn.c_attn", 3), ("transformer.h.2.mlp.c_fc", 5)]),
    (
        "llama",
        &[("model.layers.0.mlp.down_proj", 3), ("model.layers.1.self_attn.k_proj", 1), ("model.layers.2.mlp.up_proj", 3), ("lm_head", 2)],
    ),
    ("t5", &[("decoder.block.1.layer.2.DenseReluDense.wo", 2), ("encoder.block.0.layer.0.SelfAttention.q", 1)]),
];

fn case(model: &dyn LanguageModel, weights: &[(&str, usize)]) -> Edit {
    let deltas = weights.iter().enumerate().map(|(seed, (module, rank))| low_rank(model, &format!("{module}.weight"), *rank, seed));
    edit_of(model, deltas)
}

#[test]
fn what_is_exported_comes_back() {
    for (family, weights) in CASES {
        let model = tiny_model(family, 5).unwrap();
        let edit = case(&*model, weights);
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("adapter");
        let exported = export(&*model, std::slice::from_ref(&edit), &ExportOptions::default(), &out).unwrap();
        assert_eq!(exported.weights.len(), weights.len());

        let config = json(&out.join(CONFIG_FILE));
        assert_eq!(config["peft_type"], "LORA");
        assert_eq!(config["task_type"], if *family == "t5" { "SEQ_2_SEQ_LM" } else { "CAUSAL_LM" });
        assert_eq!(config["fan_in_fan_out"], *family == "gpt2");
        let mut targets: Vec<&str> = weights.iter().map(|(module, _)| *module).collect();
        targets.sort_unstable();
        assert_eq!(config["target_modules"], json!(targets));
        let highest = weights.iter().map(|(_, rank)| *rank).max().unwrap();
        assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(highest), &json!(highest)));
        let others: BTreeMap<&str, usize> = weights.iter().copied().filter(|(_, rank)| *rank != highest).collect();
        assert_eq!(config["rank_pattern"], json!(others));
        assert_eq!(config["alpha_pattern"], json!(others));

        let imported = import(&out, &*model).unwrap();
        let (got, want) = (full(std::slice::from_ref(&imported)), full(std::slice::from_ref(&edit)));
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
        for (name, want) in &want {
            assert!(distance(&got[name], want) < 1e-6, "{family} {name}");
            assert_eq!(imported.deltas[name].base, edit.deltas[name].base);
            assert_eq!(imported.deltas[name].delta.rank(), edit.deltas[name].delta.rank());
        }
        let mut edited = model.boxed_clone();
        imported.apply(&mut *edited).unwrap().revert(&mut *edited).unwrap();
    }
}

#[test]
fn factors_are_stored_as_peft_has_them() {
    let model = tiny_model("gpt2", 5).unwrap();
    let edit = edit_of(&*model, [low_rank(&*model, "transformer.h.1.mlp.c_proj.weight", 2, 1)]);
    let dir = tempfile::tempdir().unwrap();
    export(&*model, &[edit], &ExportOptions::default(), dir.path()).unwrap();
    let bytes = std::fs::read(dir.path().join(WEIGHTS_FILE)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let shape =
        |part: &str| file.tensor(&format!("base_model.model.transformer.h.1.mlp.c_proj.lora_{part}.weight")).unwrap().shape().to_vec();
    assert_eq!((shape("A"), shape("B")), (vec![2, 64], vec![32, 2]), "A reads vectors of width 64, B writes those of width 32");
}

#[test]
fn edits_of_the_same_weight_become_one_module() {
    let model = tiny_model("llama", 5).unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    let first = edit_of(&*model, [low_rank(&*model, name, 1, 1)]);
    let mut between = model.boxed_clone();
    let _applied = first.apply(&mut *between).unwrap();
    let second = edit_of(&*between, [low_rank(&*between, name, 2, 9), low_rank(&*between, "model.layers.0.mlp.up_proj.weight", 1, 3)]);
    let edits = [first, second];
    let dir = tempfile::tempdir().unwrap();
    let exported = export(&*model, &edits, &ExportOptions::default(), dir.path()).unwrap();
    assert_eq!(exported.weights.iter().map(|weight| weight.rank).collect::<Vec<_>>(), [1, 3]);
    let (got, want) = (full(&[import(dir.path(), &*model).unwrap()]), full(&edits));
    assert!(want.iter().all(|(name, want)| distance(&got[name], want) < 1e-6));
    let provenance = json(&dir.path().join("easyedit.json"));
    assert_eq!(provenance["edits"].as_array().unwrap().len(), 2);
}

#[test]
fn a_rank_beyond_the_weights_is_reduced_and_a_limit_keeps_the_best_part() {
    let model = tiny_model("llama", 5).unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    let edits = [edit_of(&*model, [low_rank(&*model, name, 50, 1)])];
    let dir = tempfile::tempdir().unwrap();
    let whole = export(&*model, &edits, &ExportOptions::default(), &dir.path().join("whole")).unwrap();
    assert_eq!((whole.weights[0].rank, whole.weights[0].relative_error), (32, 0.0));
    let back = full(&[import(&whole.folder, &*model).unwrap()]);
    let want = full(&edits);
    let parameter = ParamName::from(name);
    assert!(distance(&back[&parameter], &want[&parameter]) < 1e-6);

    let few = export(&*model, &edits, &ExportOptions { rank: Some(4), base_model: None }, &dir.path().join("few")).unwrap();
    let error = few.weights[0].relative_error;
    assert_eq!(few.weights[0].rank, 4);
    assert!(error > 0.0 && error < 1.0);
    let back = full(&[import(&few.folder, &*model).unwrap()]);
    assert!((distance(&back[&parameter], &want[&parameter]) - error).abs() < 1e-4);
}

#[test]
fn dense_changes_need_a_rank() {
    let model = tiny_model("gpt2", 5).unwrap();
    let (name, change) = low_rank(&*model, "transformer.h.1.mlp.c_proj.weight", 2, 1);
    let WeightDelta::LowRank { left, right } = &change.delta else { panic!("not of low rank") };
    let host = easyedit_core::device::select("cpu").unwrap();
    let dense = WeightDelta::Dense(Matrix::from_tensor(&left.to_tensor(&host).matmul(right.to_tensor(&host))).unwrap());
    let edits = [edit_of(&*model, [(name.clone(), TensorDelta::new(dense, change.base))])];
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("adapter");
    let refused = export(&*model, &edits, &ExportOptions::default(), &out).unwrap_err().to_string();
    for part in [name.as_str(), "dense", "--rank", "easyedit apply"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(!out.exists());
    let exported = export(&*model, &edits, &ExportOptions { rank: Some(8), base_model: Some("org/name".into()) }, &out).unwrap();
    assert_eq!(exported.weights[0].rank, 2, "the rank the change really has");
    assert!(exported.weights[0].relative_error < 1e-6);
    assert_eq!(json(&out.join(CONFIG_FILE))["base_model_name_or_path"], "org/name");
    let back = full(&[import(&out, &*model).unwrap()]);
    assert!(distance(&back[&name], &full(&edits)[&name]) < 1e-6);
}

#[test]
fn nothing_is_written_where_something_is_wrong() {
    let model = tiny_model("gpt2", 5).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("adapter");
    let refused = |edits: &[Edit], part: &str| {
        let message = export(&*model, edits, &ExportOptions::default(), &out).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        assert!(!out.exists(), "{part}");
    };
    refused(&[], "nothing");
    let stranger = tiny_model("gpt2", 6).unwrap();
    refused(&[edit_of(&*stranger, [low_rank(&*stranger, "transformer.h.1.mlp.c_proj.weight", 1, 1)])], "differs");
    refused(&[edit_of(&*model, [low_rank(&*model, "transformer.wte.weight", 1, 1)])], "at once");
    refused(&[edit_of(&*model, [low_rank(&*model, "transformer.h.0.ln_1.weight", 1, 1)])], "vector");
    let (name, mut broken) = low_rank(&*model, "transformer.h.1.mlp.c_proj.weight", 1, 1);
    broken.delta = WeightDelta::LowRank { left: Matrix::column(vec![f32::NAN; 64]), right: noise(1, 32, 1) };
    refused(&[edit_of(&*model, [(name, broken)])], "NaN");
}

#[test]
fn an_adapter_is_never_overwritten_and_the_same_edits_give_the_same_files() {
    let model = tiny_model("llama", 5).unwrap();
    let edits = [case(&*model, CASES[1].1)];
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let files = export(&*model, &edits, &ExportOptions::default(), &one).unwrap().files;
    export(&*model, &edits, &ExportOptions::default(), &two).unwrap();
    for file in files {
        assert_eq!(std::fs::read(one.join(&file)).unwrap(), std::fs::read(two.join(&file)).unwrap(), "{file}");
    }
    std::fs::remove_file(one.join(CONFIG_FILE)).unwrap();
    let refused = export(&*model, &edits, &ExportOptions::default(), &one).unwrap_err().to_string();
    assert!(refused.contains(WEIGHTS_FILE) && refused.contains("--out"), "{refused}");
}

#[test]
fn names_without_what_all_names_begin_with_are_understood() {
    let model = tiny_model("gpt2", 5).unwrap();
    let edits = [case(&*model, CASES[0].1)];
    let dir = tempfile::tempdir().unwrap();
    export(&*model, &edits, &ExportOptions::default(), dir.path()).unwrap();
    let path = dir.path().join(WEIGHTS_FILE);
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let renamed: Vec<(String, TensorView<'_>)> = file.iter().map(|(name, view)| (name.replace("transformer.", ""), view)).collect();
    std::fs::write(&path, safetensors::serialize(renamed, None).unwrap()).unwrap();
    let config = dir.path().join(CONFIG_FILE);
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap().replace("transformer.", "")).unwrap();
    let back = import(dir.path(), &*model).unwrap();
    let (got, want) = (full(std::slice::from_ref(&back)), full(&edits));
    assert!(want.iter().all(|(name, want)| distance(&got[name], want) < 1e-6));
    let mut both = model.boxed_clone();
    let _applied = apply_all(&[back], &mut *both).unwrap();
}
