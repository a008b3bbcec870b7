//! Edit files that nobody should have made: absurd sizes, and texts that would steer the terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Sandbox, TENSOR};
use easyedit::Edit;
use serde_json::json;

const EDIT_FILE: &str = "out/rome-0-the-eiffel-tower.edit.safetensors";
/// Clears the screen, writes in red, turns text round: as 7-bit and 8-bit sequences.
const STEERING: &str = "\u{1b}[2J\u{1b}[31mred\u{9b}1;5H\u{202e}\u{7}\u{1b}]0;title\u{7}\u{7f}";

/// A safetensors file of this header, without data.
fn file(header: &serde_json::Value) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

#[test]
fn a_small_file_that_claims_an_absurd_change_is_refused_by_every_command() {
    let sandbox = Sandbox::new();
    let empty = |shape: [u64; 2]| json!({"dtype": "F32", "shape": shape, "data_offsets": [0, 0]});
    let places = json!({"dtype": "U64", "shape": [0], "data_offsets": [0, 0]});
    let values = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    let one_row = json!({"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]});
    for (kind, shape, tensors) in [
        ("low_rank", [1u64 << 62, 4], json!({"left": empty([1 << 62, 0]), "right": one_row})),
        ("low_rank", [1 << 61, 8], json!({"left": empty([1 << 61, 0]), "right": empty([0, 8])})),
        ("low_rank", [1 << 32, 1 << 32], json!({"left": empty([1 << 32, 0]), "right": empty([0, 1 << 32])})),
        ("dense", [1 << 62, 0], json!({"delta": empty([1 << 62, 0])})),
        ("sparse", [1 << 32, 1 << 32], json!({"indices": places, "values": values})),
    ] {
        let change = json!({"kind": kind, "shape": shape, "base": "0".repeat(64)});
        let edit = json!({
            "format_version": 1, "easyedit_version": "0.1.0", "method": "ROME", "model": "m", "family": "llama", "seed": 0, "hparams": {},
            "requests": [], "diagnostics": null, "tensors": {TENSOR: change},
        });
        let mut header = json!({"__metadata__": {"easyedit": edit.to_string()}});
        for (part, tensor) in tensors.as_object().unwrap() {
            header[format!("{TENSOR}.{part}")] = tensor.clone();
        }
        std::fs::write(sandbox.path("bad.edit.safetensors"), file(&header)).unwrap();
        for command in [
            &["inspect", "bad.edit.safetensors"][..],
            &["apply", "--model", "model", "--edit", "bad.edit.safetensors", "--out", "new"],
            &["revert", "--model", "model", "--edit", "bad.edit.safetensors", "--out", "new"],
            &["export", "--model", "model", "--out", "new", "bad.edit.safetensors"],
            &["generate", "--model", "model", "--edit", "bad.edit.safetensors", "--prompt", "x"],
        ] {
            sandbox.run(command).fails(1, &["bad.edit.safetensors", TENSOR]);
        }
    }
}

/// A change of rank 0 may claim a large weight: it is shown without being multiplied out, and refused where it does not fit.
#[test]
fn a_change_of_nothing_is_shown_and_does_not_fit_another_weight() {
    let sandbox = Sandbox::new();
    let empty = |shape: [u64; 2]| json!({"dtype": "F32", "shape": shape, "data_offsets": [0, 0]});
    let change = json!({"kind": "low_rank", "shape": [65536, 65536], "base": "0".repeat(64)});
    let edit = json!({
        "format_version": 1, "easyedit_version": "0.1.0", "method": "ROME", "model": "m", "family": "llama", "seed": 0, "hparams": {},
        "requests": [], "diagnostics": null, "tensors": {TENSOR: change},
    });
    let mut header = json!({"__metadata__": {"easyedit": edit.to_string()}});
    header[format!("{TENSOR}.left")] = empty([65536, 0]);
    header[format!("{TENSOR}.right")] = empty([0, 65536]);
    std::fs::write(sandbox.path("none.edit.safetensors"), file(&header)).unwrap();
    let inspected = sandbox.run(&["inspect", "none.edit.safetensors", "--json"]).success().json();
    assert_eq!(inspected["tensors"][0]["norm"], 0.0);
    for command in ["apply", "revert"] {
        sandbox
            .run(&[command, "--model", "model", "--edit", "none.edit.safetensors", "--out", "new"])
            .fails(1, &[TENSOR, "[65536, 65536]"]);
    }
    sandbox
        .run(&["generate", "--model", "model", "--edit", "none.edit.safetensors", "--prompt", "x"])
        .fails(1, &[TENSOR, "[65536, 65536]"]);
}

#[test]
fn texts_of_an_edit_file_do_not_steer_the_terminal() {
    let sandbox = Sandbox::new();
    sandbox.edit(&["--out", "out", "--no-evaluation"]).success();
    let mut edit = Edit::load(&sandbox.path(EDIT_FILE)).unwrap();
    edit.method = format!("ROME{STEERING}");
    edit.model = format!("tiny{STEERING}");
    edit.diagnostics = json!({ STEERING: STEERING });
    edit.hparams = json!({ STEERING: STEERING });
    edit.requests[0].subject = Some(format!("tower{STEERING}"));
    edit.requests[0].prompt = format!("The tower\n{STEERING} is in");
    edit.requests[0].target_new = STEERING.into();
    edit.save(&sandbox.path("bad.edit.safetensors")).unwrap();
    let mut misfit = edit.clone();
    let (_, change) = misfit.deltas.pop_first().unwrap();
    misfit.deltas.insert(format!("a{STEERING}").as_str().into(), change);
    misfit.save(&sandbox.path("misfit.edit.safetensors")).unwrap();
    easyedit::models::tiny::write_tiny_checkpoint("llama", 8, &sandbox.path("other")).unwrap();
    let mut shown = 0;
    for colours in ["NO_COLOR", "CLICOLOR_FORCE"] {
        for command in [
            &["inspect", "bad.edit.safetensors"][..],
            &["inspect", "bad.edit.safetensors", "--json"],
            &["apply", "--model", "other", "--edit", "bad.edit.safetensors", "--out", "new"],
            &["apply", "--model", "model", "--edit", "misfit.edit.safetensors", "--out", "new"],
            &["generate", "--model", "other", "--edit", "bad.edit.safetensors", "--prompt", "x"],
            &["generate", "--model", "model", "--edit", "misfit.edit.safetensors", "--prompt", "x"],
            &["generate", "--model", "model", "--prompt", STEERING, "-n", "2"],
            &["revert", "--model", "model", "--edit", "bad.edit.safetensors", "--out", "new"],
            &["forget", "bad.edit.safetensors", "--case-id", "0", "--out", "new"],
            &["export", "--model", "model", "--out", "new", "misfit.edit.safetensors"],
        ] {
            let run = sandbox.run_with(&[(colours, "1")], command);
            let text = run.stdout() + &run.stderr();
            // Colours of the program itself: one sequence of digits and the letter m.
            let mut plain = text.clone();
            for code in ["0", "1", "2", "31", "32", "33", "36"] {
                plain = plain.replace(&format!("\u{1b}[{code}m"), if code == "31" { "<red>" } else { "" });
            }
            assert!(!plain.contains("<red>red"), "{command:?}: {text:?}");
            let steering = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
            assert!(!plain.contains(steering), "{command:?}: {text:?}");
            shown += usize::from(text.contains("\\u{1b}[31mred") || text.contains("\\u001b[31mred"));
        }
    }
    assert!(shown >= 10, "the texts are shown, made visible: {shown}");
}
