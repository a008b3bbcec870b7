//! What a user can get wrong: each is one error that names the thing, and no file is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Seek, SeekFrom, Write};

use common::{HPARAMS, Sandbox};
use serde_json::json;

const REQUEST: [&str; 6] = ["--prompt", "The Eiffel Tower is in", "--subject", "The Eiffel Tower", "--target", "Rome"];

/// Runs `edit` into `out` and expects it to fail without having written anything.
#[track_caller]
fn edit_fails(sandbox: &Sandbox, more: &[&str], code: i32, parts: &[&str]) {
    let before = sandbox.listing();
    let outputs: &[&str] = if more.contains(&"--out") { &[] } else { &["--out", "out", "--save", "both", "--report", "report.jsonl"] };
    sandbox.run(&[&["edit"], more, outputs].concat()).fails(code, parts);
    assert_eq!(sandbox.listing(), before, "files were left behind");
}

#[track_caller]
fn edit_of_model_fails(sandbox: &Sandbox, code: i32, parts: &[&str]) {
    edit_fails(sandbox, &[&["--model", "model", "--hparams", "tiny.yaml"], &REQUEST[..]].concat(), code, parts);
}

#[test]
fn requests_that_cannot_be_edited() {
    let sandbox = Sandbox::new();
    let model = ["--model", "model", "--hparams", "tiny.yaml"];
    for (request, code, parts) in [
        (
            &["--prompt", "The Louvre is in", "--subject", "The Eiffel Tower", "--target", "Rome"][..],
            1,
            &["The Eiffel Tower", "The Louvre is in"][..],
        ),
        (&["--prompt", "The Louvre is in", "--subject", "The Louvre", "--target", " "][..], 1, &["target", "The Louvre is in"][..]),
        (&["--prompt", "The Louvre is in", "--target", "Rome"][..], 1, &["subject", "The Louvre is in"][..]),
        (&["--prompt", "The Louvre is in", "--subject", "The Louvre"][..], 2, &["--target"][..]),
        (&["--subject", "The Louvre"][..], 2, &["--prompt"][..]),
        (&[][..], 2, &["--prompt"][..]),
        (&["--requests", "nowhere.json"][..], 1, &["nowhere.json"][..]),
    ] {
        edit_fails(&sandbox, &[&model, request].concat(), code, parts);
    }
    let broken = sandbox.write("broken.json", r#"[{"prompt": "The Louvre is in", "target_new": "Rome"}, {"prompt": 3}]"#);
    edit_fails(&sandbox, &[&model[..], &["--requests", broken.to_str().unwrap()]].concat(), 1, &["broken.json"]);
    edit_fails(&sandbox, &[&model[..], &REQUEST, &["--locality", "no answer"]].concat(), 2, &["--locality", "::"]);
}

#[test]
fn a_subject_that_occurs_twice_is_edited_at_its_last_place_and_said() {
    let sandbox = Sandbox::new();
    let request = ["--prompt", "Rome is old and Rome is", "--subject", "Rome", "--target", "new", "--no-evaluation"];
    let run = sandbox.run(&[&["edit", "--model", "model", "--hparams", "tiny.yaml"], &request[..]].concat()).success();
    assert!(run.stderr().contains("occurs 2 times"), "{}", run.stderr());
}

#[test]
fn methods_and_hyperparameters_that_do_not_exist() {
    let sandbox = Sandbox::new();
    let with = |name: &str, from: &str, to: &str| {
        assert!(HPARAMS.contains(from));
        sandbox.write(name, &HPARAMS.replace(from, to));
    };
    with("deep.yaml", "layers: [1]", "layers: [99]");
    with("key.yaml", "v_lr:", "v_lrr:");
    with("method.yaml", "alg_name: \"ROME\"", "alg_name: \"MEMIT\"");
    with("value.yaml", "v_lr: 5e-1", "v_lr: fast");
    with("family.yaml", "\"model.layers.{}.mlp.down_proj\"", "\"transformer.h.{}.mlp.c_proj\"");
    sandbox.write("list.yaml", "- 1\n- 2\n");
    let model = ["--model", "model"];
    for (flags, code, parts) in [
        (["--method", "ROMMEE"], 2, &["ROMMEE", "did you mean ROME?"][..]),
        (["--hparams", "nowhere.yaml"], 1, &["nowhere.yaml"][..]),
        (["--hparams", "deep.yaml"], 1, &["layer 99", "0 to 2"][..]),
        (["--hparams", "key.yaml"], 1, &["key.yaml", "v_lrr", "did you mean v_lr?"][..]),
        (["--hparams", "method.yaml"], 1, &["method.yaml", "MEMIT"][..]),
        (["--hparams", "value.yaml"], 1, &["value.yaml", "v_lr"][..]),
        (["--hparams", "family.yaml"], 1, &["rewrite_module_tmp", "transformer.h.{}.mlp.c_proj"][..]),
        (["--hparams", "list.yaml"], 1, &["list.yaml", "not a map"][..]),
        (["--corpus", "nowhere.txt"], 1, &["nowhere.txt", "--corpus"][..]),
        (["--mode", "sideways"], 2, &["sideways", "sequential"][..]),
    ] {
        edit_fails(&sandbox, &[&model[..], &flags, &REQUEST].concat(), code, parts);
    }
}

#[test]
fn models_that_are_not_there() {
    let sandbox = Sandbox::new();
    sandbox.write("notes.txt", "no model");
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    for (model, parts) in [("./nowhere", &["nowhere"][..]), ("notes.txt", &["notes.txt"][..]), ("./empty", &["empty", "config.json"][..])] {
        edit_fails(&sandbox, &[&["--model", model], &REQUEST[..]].concat(), 1, parts);
    }
    edit_fails(&sandbox, &[&["--model", ""], &REQUEST[..]].concat(), 2, &["--model"]);
}

#[test]
fn damaged_checkpoints() {
    let cut = Sandbox::new();
    let weights = std::fs::File::options().write(true).open(cut.path("model/model.safetensors")).unwrap();
    weights.set_len(weights.metadata().unwrap().len() - 100).unwrap();
    edit_of_model_fails(&cut, 1, &["model.safetensors"]);

    let not_finite = Sandbox::new();
    let mut weights = std::fs::File::options().write(true).open(not_finite.path("model/model.safetensors")).unwrap();
    weights.seek(SeekFrom::End(-4)).unwrap();
    weights.write_all(&f32::NAN.to_le_bytes()).unwrap();
    drop(weights);
    edit_of_model_fails(&not_finite, 1, &["tensor", "model.safetensors"]);

    let missing = Sandbox::new();
    missing.change_json("model/config.json", |config| config["num_hidden_layers"] = json!(4));
    edit_of_model_fails(&missing, 1, &["model.layers.3."]);

    let misshapen = Sandbox::new();
    misshapen.change_json("model/config.json", |config| config["intermediate_size"] = json!(48));
    edit_of_model_fails(&misshapen, 1, &["mlp", "48"]);

    let unknown = Sandbox::new();
    unknown.change_json("model/config.json", |config| config["model_type"] = json!("llamma"));
    edit_of_model_fails(&unknown, 1, &["llamma", "did you mean llama?"]);

    let absurd = Sandbox::new();
    absurd.change_json("model/config.json", |config| config["num_hidden_layers"] = json!(1e15));
    edit_of_model_fails(&absurd, 1, &["num_hidden_layers"]);

    let no_config = Sandbox::new();
    no_config.write("model/config.json", "{");
    edit_of_model_fails(&no_config, 1, &["config.json"]);
}

#[test]
fn an_index_that_leads_out_of_the_folder() {
    let sandbox = Sandbox::new();
    std::fs::rename(sandbox.path("model/model.safetensors"), sandbox.path("x.safetensors")).unwrap();
    let index = json!({ "metadata": {}, "weight_map": { "model.embed_tokens.weight": "../x.safetensors" } });
    sandbox.write("model/model.safetensors.index.json", &index.to_string());
    edit_of_model_fails(&sandbox, 1, &["../x.safetensors", "index.json"]);
}

#[test]
fn a_tokenizer_that_does_not_fit() {
    let sandbox = Sandbox::new();
    sandbox.change_json("model/tokenizer.json", |tokenizer| tokenizer["model"]["vocab"]["strange"] = json!(5000));
    edit_of_model_fails(&sandbox, 1, &["tokenizer", "vocabulary", "5000"]);
    sandbox.write("model/tokenizer.json", "{}");
    edit_of_model_fails(&sandbox, 1, &["tokenizer.json"]);
}

#[test]
fn a_gguf_with_absurd_counts() {
    let sandbox = Sandbox::new();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(u64::MAX.to_le_bytes());
    bytes.extend(u64::MAX.to_le_bytes());
    std::fs::write(sandbox.path("absurd.gguf"), bytes).unwrap();
    edit_fails(&sandbox, &[&["--model", "absurd.gguf"], &REQUEST[..]].concat(), 1, &["absurd.gguf"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "in the way");
    let model = [&["--model", "model", "--hparams", "tiny.yaml"], &REQUEST[..]].concat();
    for (flags, code, parts) in [
        (&["--out", "model"][..], 2, &["model", "own folder"][..]),
        (&["--out", "./model/../model", "--save", "checkpoint"][..], 1, &["own folder"][..]),
        (&["--out", "file"][..], 1, &["file"][..]),
        (&["--out", "file/sub", "--save", "both"][..], 1, &["file"][..]),
    ] {
        edit_fails(&sandbox, &[&model[..], flags].concat(), code, parts);
    }
    let before = sandbox.listing();
    sandbox.run(&[&["edit"], &model[..], &["--save", "both"]].concat()).fails(2, &["--out"]);
    sandbox.run(&[&["edit"], &model[..], &["--report", "file/report.jsonl"]].concat()).fails(1, &["file"]);
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn a_folder_that_another_run_writes_to() {
    let sandbox = Sandbox::new();
    let held = easyedit::OutputFolder::claim(&sandbox.path("out")).unwrap();
    sandbox.edit(&["--out", "out"]).fails(1, &["out", "another run"]);
    drop(held);
    sandbox.edit(&["--out", "out"]).success();
}

#[test]
fn a_checkpoint_is_never_written_over_another() {
    let sandbox = Sandbox::new();
    sandbox.edit(&["--out", "out", "--save", "both"]).success();
    let before = sandbox.listing();
    sandbox.edit(&["--out", "out", "--save", "both"]).fails(1, &["out", "checkpoint"]);
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn devices_that_are_not_there() {
    let sandbox = Sandbox::new();
    let model = [&["--model", "model", "--hparams", "tiny.yaml"], &REQUEST[..]].concat();
    edit_fails(&sandbox, &[&["--device", "gpu"], &model[..]].concat(), 2, &["gpu", "cuda:N"]);
    if !easyedit::device::COMPILED.contains(&"tch") {
        edit_fails(&sandbox, &[&["--device", "tch"], &model[..]].concat(), 2, &["tch", "--features tch"]);
    }
}

#[test]
fn independent_edits_have_no_checkpoint_in_common() {
    let sandbox = Sandbox::new();
    let request = |subject: &str| json!({ "prompt": format!("{subject} is in"), "subject": subject, "target_new": "Rome" });
    sandbox.write("two.json", &json!([request("The Louvre"), request("The Kremlin")]).to_string());
    edit_fails(&sandbox, &["--model", "model", "--hparams", "tiny.yaml", "--requests", "two.json"], 2, &["independently", "--mode"]);
}

#[test]
fn edit_files_that_are_none() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("no.edit.safetensors", "no edit");
    let file = path.to_str().unwrap();
    let before = sandbox.listing();
    sandbox.run(&["inspect", file]).fails(1, &["no.edit.safetensors", "safetensors"]);
    sandbox.run(&["inspect", "nowhere.edit.safetensors"]).fails(1, &["nowhere.edit.safetensors"]);
    sandbox.run(&["apply", "--model", "model", "--edit", file, "--out", "out"]).fails(1, &["no.edit.safetensors"]);
    sandbox.run(&["inspect", "model/model.safetensors"]).fails(1, &["not an easyedit edit"]);
    assert_eq!(sandbox.listing(), before);
}
