//! Reading a checkpoint takes no more memory than its tensors: measured in a process of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use easyedit_models::{SafetensorsSource, StoredValues, TensorSource, WeightType};
use safetensors::tensor::{Dtype, TensorView};

/// Set in the process that reads and measures, to the file to read.
const FILE: &str = "EASYEDIT_LOAD_MEMORY_FILE";
const TENSORS: usize = 8;
/// 12 MiB of `f32`.
const SHAPE: [usize; 2] = [1024, 3072];

/// The largest memory that the process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
}

fn write(path: &Path, kind: WeightType, dtype: Dtype) {
    let bytes = kind.narrow(&vec![0.25; SHAPE[0] * SHAPE[1]]);
    let tensors = (0..TENSORS).map(|i| (format!("t{i}"), TensorView::new(dtype, SHAPE.to_vec(), &bytes).unwrap()));
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

#[test]
fn tensors_are_read_without_a_second_copy() {
    if let Some(file) = std::env::var_os(FILE).map(PathBuf::from) {
        let source = SafetensorsSource::open_file(&file).unwrap();
        let count = SHAPE[0] * SHAPE[1];
        let before = peak();
        let all: Vec<StoredValues> = source.names().iter().map(|name| source.read_stored(name, &SHAPE).unwrap()).collect();
        let grown = peak() - before;
        let tensor_bytes = all[0].kind().size() * count;
        assert!(all.into_iter().all(|values| values.len() == count && values.into_f32().iter().all(|value| *value == 0.25)));
        assert!(grown >= TENSORS * tensor_bytes / 2, "only {grown} bytes: nothing was measured");
        assert!(grown <= (TENSORS + 1) * tensor_bytes, "{grown} bytes for {} of tensors", TENSORS * tensor_bytes);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (kind, dtype) in [(WeightType::F32, Dtype::F32), (WeightType::Bf16, Dtype::BF16), (WeightType::F16, Dtype::F16)] {
        let file = folder.path().join(kind.name());
        write(&file, kind, dtype);
        let test = ["--exact", "tensors_are_read_without_a_second_copy", "--nocapture"];
        let output = Command::new(std::env::current_exe().unwrap()).args(test).env(FILE, &file).output().unwrap();
        assert!(output.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }
}
