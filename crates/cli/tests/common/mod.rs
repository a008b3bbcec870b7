//! A folder of its own for every test, with a tiny model in it and the program pointed at it.
#![allow(dead_code, unreachable_pub, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The weight that the tests edit.
pub const TENSOR: &str = "model.layers.1.mlp.down_proj.weight";

/// Hyperparameters that fit the tiny LLaMA and take a moment.
pub const HPARAMS: &str = r#"alg_name: "ROME"
model_name: "tiny"
device: 0
layers: [1]
fact_token: "subject_last"
v_num_grad_steps: 8
v_lr: 5e-1
v_loss_layer: 2
v_weight_decay: 1e-3
clamp_norm_factor: 4
kl_factor: 0.0625
mom2_adjustment: false
context_template_length_params: [[12, 5]]
rewrite_module_tmp: "model.layers.{}.mlp.down_proj"
layer_module_tmp: "model.layers.{}"
mlp_module_tmp: "model.layers.{}.mlp"
attn_module_tmp: "model.layers.{}.self_attn"
ln_f_module: "model.norm"
lm_head_module: "lm_head"
mom2_dataset: "wikitext-sample"
mom2_n_samples: 10
mom2_dtype: "float32"
"#;

pub struct Sandbox(TempDir);

impl Sandbox {
    /// A folder with a tiny LLaMA in `model` and hyperparameters for it in `tiny.yaml`.
    pub fn new() -> Self {
        let sandbox = Self(tempfile::tempdir().unwrap());
        easyedit::models::tiny::write_tiny_checkpoint("llama", 7, &sandbox.path("model")).unwrap();
        sandbox.write("tiny.yaml", HPARAMS);
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Changes a JSON file of the model.
    pub fn change_json(&self, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.path(name);
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(&path, value.to_string()).unwrap();
    }

    /// Runs the program in the folder; it reaches no network and keeps its cache in the folder.
    pub fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(&[], arguments)
    }

    /// Runs the program with more environment variables.
    pub fn run_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Run {
        Run(self.command().envs(variables.iter().copied()).args(arguments).output().unwrap())
    }

    /// The program as [`run`](Self::run) runs it, without arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("easyedit"));
        command
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", "")
            .env("HOME", self.0.path())
            .env("EASYEDIT_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("hf"))
            .env("HF_HUB_OFFLINE", "1")
            .env("NO_COLOR", "1");
        command
    }

    /// Runs `edit` with a good request, the tiny hyperparameters and more flags.
    pub fn edit(&self, more: &[&str]) -> Run {
        let request = ["--prompt", "The Eiffel Tower is in", "--subject", "The Eiffel Tower", "--target", "Rome"];
        let model = ["edit", "--model", "model", "--hparams", "tiny.yaml"];
        self.run(&[&model[..], &request, more].concat())
    }

    /// Every file and folder outside the cache.
    pub fn listing(&self) -> BTreeSet<PathBuf> {
        let mut all = BTreeSet::new();
        list(self.0.path(), &mut all);
        let cache = self.path("cache");
        all.retain(|path| !path.starts_with(&cache));
        all
    }
}

fn list(folder: &Path, all: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, all);
        }
        all.insert(path);
    }
}

/// What a run of the program came to.
pub struct Run(pub Output);

impl Run {
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// The run, which has to have succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code(), 0, "stdout: {}\nstderr: {}", self.stdout(), self.stderr());
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout()).unwrap_or_else(|e| panic!("{e}: {}", self.stdout()))
    }

    /// The run has to have failed with `code`, in one error that holds all `parts`, and without a panic.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) {
        let stderr = self.stderr();
        assert_eq!(self.code(), code, "stdout: {}\nstderr: {stderr}", self.stdout());
        assert!(stderr.contains("error:") && !stderr.contains("panicked"), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        }
    }
}
