//! Folders whose weights PyTorch wrote, good and hostile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoint_support;
mod pytorch_support;

use std::fs;
use std::path::Path;

use checkpoint_support::{A, B, NORM, changed, edit, raw, values, write_checkpoint};
use easyedit_models::*;
use proptest::prelude::*;
use pytorch_support::*;
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

const HALF: WeightType = WeightType::F16;

/// A checkpoint folder without weights.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), vec![raw(A, WeightType::F32, &[3, 5], &values(15, 0.0))], false);
    fs::remove_file(dir.path().join(SINGLE_FILE)).unwrap();
    fs::remove_file(dir.path().join(PYTORCH_FILE)).unwrap();
    dir
}

fn with(bytes: &[u8]) -> TempDir {
    let dir = folder();
    write(&dir.path().join(PYTORCH_FILE), bytes);
    dir
}

fn small() -> Vec<u8> {
    let (a, norm) = (WeightType::F32.narrow(&values(15, 0.0)), WeightType::Bf16.narrow(&values(5, 7.0)));
    bin(&[(A, "F32", &[3, 5], &a), (NORM, "BF16", &[5], &norm)])
}

#[track_caller]
fn refused(folder: &Path, parts: &[&str]) {
    let message = Checkpoint::open(folder).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[track_caller]
fn unreadable(folder: &Path, name: &str, shape: &[usize], parts: &[&str]) {
    let message = Checkpoint::open(folder).unwrap().tensors().read(name, shape).unwrap_err().to_string();
    for part in [name].iter().chain(parts) {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn every_float_type_is_widened() {
    for kind in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
        let bytes = kind.narrow(&values(6, 2.0));
        let dir = with(&bin(&[("x", kind.name(), &[2, 3], &bytes)]));
        let opened = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(opened.tensors().read("x", &[2, 3]).unwrap(), kind.widen(&bytes).0);
        assert_eq!(opened.files().shape("x"), Some(vec![2, 3]));
        assert_eq!(opened.tokenizer().unwrap().eos(), [3]);
    }
}

#[test]
fn views_share_storages_and_may_be_transposed_or_begin_anywhere() {
    let numbers: Vec<f32> = (0..12u8).map(f32::from).collect();
    let storages = [Storage { class: "HalfStorage", bytes: HALF.narrow(&numbers) }];
    let view = |name: &str, offset, shape: &[usize], stride: &[usize]| View {
        name: name.into(),
        storage: 0,
        offset,
        shape: shape.to_vec(),
        stride: stride.to_vec(),
    };
    let views = [
        view("embed", 0, &[4, 3], &[3, 1]),
        view("tied", 0, &[4, 3], &[3, 1]),
        view("transposed", 0, &[3, 4], &[1, 3]),
        view("part", 4, &[2, 2], &[3, 1]),
    ];
    let dir = with(&archive(&state_dict(&storages, &views), &storages));
    let opened = Checkpoint::open(dir.path()).unwrap();
    let read = |name: &str, shape: &[usize]| opened.tensors().read(name, shape).unwrap();
    assert_eq!(read("embed", &[4, 3]), numbers);
    assert_eq!(read("tied", &[4, 3]), numbers);
    assert_eq!(read("transposed", &[3, 4]), [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11].map(|n| n as f32));
    assert_eq!(read("part", &[2, 2]), [4.0, 5.0, 7.0, 8.0]);
}

#[test]
fn safetensors_win_and_the_only_loose_file_counts() {
    let dir = with(&small());
    let better = raw(A, WeightType::F32, &[3, 5], &values(15, 50.0));
    fs::write(dir.path().join(SINGLE_FILE), checkpoint_support::safetensors(&[better], Some("pt"))).unwrap();
    let opened = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(opened.tensors().read(A, &[3, 5]).unwrap(), values(15, 50.0));
    assert!(!opened.tensors().contains(NORM));

    for name in ["weights.pt", "weights.pth"] {
        let dir = folder();
        write(&dir.path().join(name), &small());
        write(&dir.path().join("optimizer.pt"), b"no weights");
        assert!(Checkpoint::open(dir.path()).unwrap().tensors().contains(NORM));
        write(&dir.path().join("second.pt"), &small());
        refused(dir.path(), &["several", name, "second.pt"]);
        let alone = Checkpoint::open(&dir.path().join(name)).unwrap_err().to_string();
        assert!(alone.contains("give the folder"), "{alone}");
    }
}

#[test]
fn weights_inside_a_training_checkpoint_are_found() {
    let bytes = HALF.narrow(&values(2, 0.0));
    let dir = with(&bin(&[("state_dict.x", "F16", &[2], &bytes), ("optimizer.exp_avg", "F16", &[2], &bytes)]));
    let opened = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(opened.tensors().names(), ["x"]);
}

fn shards(map: serde_json::Value) -> TempDir {
    let dir = folder();
    for (file, name, seed) in [("one.bin", A, 0.0), ("two.bin", B, 100.0)] {
        let bytes = HALF.narrow(&values(15, seed));
        write(&dir.path().join(file), &bin(&[(name, "F16", &[3, 5], &bytes)]));
    }
    fs::write(dir.path().join(PYTORCH_INDEX_FILE), json!({ "weight_map": map }).to_string()).unwrap();
    dir
}

#[test]
fn shards_are_read_by_their_index() {
    let dir = shards(json!({ A: "one.bin", B: "two.bin" }));
    let opened = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(opened.tensors().read(B, &[3, 5]).unwrap(), HALF.widen(&HALF.narrow(&values(15, 100.0))).0);
    refused(shards(json!({ A: "two.bin", B: "two.bin" })).path(), &[A, "two.bin", PYTORCH_INDEX_FILE]);
    refused(shards(json!({ A: "one.bin", B: "three.bin" })).path(), &["three.bin", PYTORCH_INDEX_FILE]);
    refused(shards(json!({ A: "../one.bin" })).path(), &["../one.bin", "do not use"]);
    refused(shards(json!({})).path(), &[PYTORCH_INDEX_FILE, "no tensors"]);
    let twice = shards(json!({ A: "one.bin", B: "two.bin" }));
    fs::copy(twice.path().join("one.bin"), twice.path().join("two.bin")).unwrap();
    refused(twice.path(), &[A, "another shard"]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = small();
    let dir = with(&whole);
    for end in 0..whole.len() {
        write(&dir.path().join(PYTORCH_FILE), &whole[..end]);
        refused(dir.path(), &[PYTORCH_FILE]);
    }
}

#[test]
fn files_that_are_something_else_are_refused() {
    let legacy_magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let text = b"weights, honestly".to_vec();
    let safetensors = checkpoint_support::safetensors(&[raw("x", HALF, &[1], &[1.0])], None);
    let empty_zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new())).finish().unwrap().into_inner();
    let list = b"\x80\x02].".to_vec();
    let endless = [b"\x80\x02".to_vec(), vec![b']'; 1 << 20]].concat();
    let absurd_length = b"\x80\x02B\xff\xff\xff\xffx".to_vec();
    for bytes in [vec![], text, safetensors, legacy_magic.to_vec(), empty_zip, list, endless, absurd_length, b"\x80\x02}.".to_vec()] {
        refused(with(&bytes).path(), &[PYTORCH_FILE]);
        refused(with(&archive(&bytes, &[])).path(), &[PYTORCH_FILE]);
    }
    refused(with(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n").path(), &["git lfs pull"]);
    let dir = folder();
    fs::create_dir(dir.path().join(PYTORCH_FILE)).unwrap();
    refused(dir.path(), &[PYTORCH_FILE, "regular file"]);
}

#[test]
fn a_pickle_that_asks_for_a_command_runs_none() {
    let outside = tempfile::tempdir().unwrap();
    let witness = outside.path().join("ran");
    let mut call = b"cposix\nsystem\n(".to_vec();
    text(&mut call, &format!("touch {}", witness.display()));
    call.extend(b"tR");
    let bytes = HALF.narrow(&[1.0, 2.0]);
    let storages = [Storage { class: "HalfStorage", bytes }];
    let view = View { name: "x".into(), storage: 0, offset: 0, shape: vec![2], stride: vec![1] };
    let alone = [b"\x80\x02".to_vec(), call.clone(), b".".to_vec()].concat();
    let mut beside = b"\x80\x02}(".to_vec();
    text(&mut beside, "x");
    tensor(&mut beside, &storages, &view);
    text(&mut beside, "y");
    beside.extend(&call);
    beside.extend(b"u.");
    for pickle in [&alone, &beside] {
        refused(with(&archive(pickle, &storages)).path(), &[PYTORCH_FILE, "posix.system", "nothing was run"]);
    }
    refused(with(&alone).path(), &[PYTORCH_FILE, "posix.system"]);
    refused(with(b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.").path(), &[PYTORCH_FILE, "builtins.eval", "nothing was run"]);
    assert!(!witness.exists());
}

#[test]
fn tensors_that_are_missing_misshapen_damaged_or_of_another_type_are_named() {
    let dir = with(&small());
    unreadable(dir.path(), "model.layers.9.mlp.down_proj.weight", &[3, 5], &["missing"]);
    unreadable(dir.path(), A, &[5, 3], &[PYTORCH_FILE, "[3, 5]", "[5, 3]"]);
    unreadable(with(&bin(&[("x", "F64", &[1], &[0; 8])])).path(), "x", &[1], &["F64", "F32, F16 or BF16"]);
    for bad in [f32::NAN, f32::INFINITY] {
        for kind in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
            let dir = with(&bin(&[("x", kind.name(), &[2], &kind.narrow(&[0.0, bad]))]));
            unreadable(dir.path(), "x", &[2], &[PYTORCH_FILE, "damaged", "value 1"]);
        }
    }
    // A storage that is shorter than the pickle says, one that is not there, and a view beyond its storage.
    let whole = [Storage { class: "FloatStorage", bytes: vec![0; 8] }];
    let view = View { name: "x".into(), storage: 0, offset: 0, shape: vec![2], stride: vec![1] };
    let pickle = state_dict(&whole, std::slice::from_ref(&view));
    let short = [Storage { class: "FloatStorage", bytes: vec![0; 4] }];
    unreadable(with(&archive(&pickle, &short)).path(), "x", &[2], &[PYTORCH_FILE]);
    unreadable(with(&archive(&pickle, &[])).path(), "x", &[2], &[PYTORCH_FILE]);
    let beyond = state_dict(&whole, &[View { offset: 1, ..view }]);
    refused(with(&archive(&beyond, &whole)).path(), &[PYTORCH_FILE]);
}

#[test]
fn saved_it_becomes_safetensors_of_the_same_types() {
    let (a, norm) = (HALF.narrow(&values(15, 0.0)), WeightType::Bf16.narrow(&values(5, 7.0)));
    let tensors: [Whole<'_>; 4] =
        [(A, "F16", &[3, 5], &a), (NORM, "BF16", &[5], &norm), ("mask", "BOOL", &[3], &[1, 0, 1]), ("ids", "I64", &[2], &[7; 16])];
    let dir = folder();
    let names = ["one.bin", "two.bin"];
    write(&dir.path().join(names[0]), &bin(&tensors[..3]));
    write(&dir.path().join(names[1]), &bin(&tensors[3..]));
    let map = json!({ A: names[0], NORM: names[0], "mask": names[0], "ids": names[1] });
    fs::write(dir.path().join(PYTORCH_INDEX_FILE), json!({ "weight_map": map }).to_string()).unwrap();

    let source = Checkpoint::open(dir.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("edited");
    let new = changed(A, 3, 5, (0..15u8).map(f32::from).collect());
    let saved = save_checkpoint(&source, &new, &[edit(A, 3, 5)], &out).unwrap();
    assert!(saved.files.iter().all(|name| !name.ends_with(".bin") && !name.ends_with(".index.json")), "{:?}", saved.files);
    assert_eq!(saved.tensors[0].dtype, "F16");
    let opened = SafetensorsSource::open(&out).unwrap();
    assert_eq!(opened.names().len(), 4);
    assert_eq!(opened.read(A, &[3, 5]).unwrap(), (0..15u8).map(f32::from).collect::<Vec<_>>());
    for (name, dtype, bytes) in [(NORM, Dtype::BF16, &norm[..]), ("mask", Dtype::BOOL, &[1, 0, 1]), ("ids", Dtype::I64, &[7; 16])] {
        assert_eq!((opened.tensor(name).unwrap().dtype, opened.raw(name).unwrap()), (dtype, bytes), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_bytes_are_an_error_or_read_but_never_a_panic(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = small();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let dir = with(&bytes);
        if let Ok(opened) = Checkpoint::open(dir.path()) {
            for name in opened.tensors().names() {
                let shape = opened.files().shape(&name).unwrap();
                let _ = opened.tensors().read(&name, &shape);
                let _ = opened.files().bytes(&name);
            }
        }
    }
}
