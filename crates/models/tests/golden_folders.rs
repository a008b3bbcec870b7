//! Every decoder against the values in `data/golden`: logits, hidden states, gradients, and a round trip through a saved checkpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod pytorch_support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData, activation};
use common::{MemoryTensors, assert_close, largest_difference, values};
use easyedit_core::{LanguageModel, Matrix, Pass, TokenBatch};
use easyedit_models::*;

/// Folders of models of other kinds; `golden_other_folders.rs` checks them.
const OTHERS: &[&str] = &["bert", "distilbert", "t5", "t5_v1_1"];

struct Golden {
    name: String,
    folder: PathBuf,
    tensors: MemoryTensors,
}

impl Golden {
    fn file(&self) -> PathBuf {
        self.folder.join("golden.safetensors")
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::open(&self.folder).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The ids of a row, without pads.
    fn row(&self, row: usize) -> Vec<u32> {
        let (shape, ids) = &self.tensors.tensors["input_ids"];
        let mask = self.tensors.get("attention_mask");
        (row * shape[1]..(row + 1) * shape[1]).filter(|i| mask[*i] == 1.0).map(|i| ids[i] as u32).collect()
    }

    /// Row 0 of a tensor, which has no pads.
    fn first_row(&self, name: &str) -> Tensor<2> {
        let (shape, values) = &self.tensors.tensors[name];
        let [_, length, width] = shape[..] else { panic!("{name} has shape {shape:?}") };
        let device = easyedit_core::device::select("cpu").unwrap();
        Tensor::from_data(TensorData::new(values[..length * width].to_vec(), [length, width]), &device)
    }
}

/// The decoders: every folder but the others.
fn decoders() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/golden");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    let names = folders.into_iter().map(|folder| (folder.file_name().unwrap().to_string_lossy().into_owned(), folder));
    let (others, decoders): (Vec<_>, Vec<_>) = names.partition(|(name, _)| OTHERS.contains(&name.as_str()));
    assert_eq!(others.len(), OTHERS.len());
    assert!(decoders.len() >= 14, "{decoders:?}");
    let open = |(name, folder): (String, PathBuf)| {
        let tensors = MemoryTensors::open(&folder.join("golden.safetensors"));
        Golden { name, folder, tensors }
    };
    decoders.into_iter().map(open).collect()
}

fn load(checkpoint: &Checkpoint) -> Box<dyn LanguageModel> {
    checkpoint.load(&easyedit_core::device::select("cpu").unwrap()).unwrap_or_else(|e| panic!("{}: {e}", checkpoint.name()))
}

fn logits(model: &dyn LanguageModel, batch: &TokenBatch) -> Vec<f32> {
    let mut pass = Pass::new(batch.clone(), &model.device());
    let hidden = model.hidden(&mut pass, &mut ()).unwrap();
    values(&model.logits(hidden, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap())
}

#[test]
fn logits_and_hidden_states_agree_in_the_batch_and_alone() {
    for golden in decoders() {
        let model = load(&golden.checkpoint());
        let verification = verify(&*model, &golden.file(), 1e-4).unwrap();
        let names: Vec<String> = verification.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let want: Vec<String> = (0..model.spec().n_layers).map(|layer| format!("hidden_{layer}")).chain(["logits".into()]).collect();
        assert_eq!(names, want, "{}", golden.name);
        println!("{}: {:e}", golden.name, verification.worst().unwrap().largest_difference);
        assert!(verification.agrees(), "{}: {:?}", golden.name, verification.tensors);

        let rows = [golden.row(0), golden.row(1)];
        assert!(rows[0].len() > rows[1].len(), "the golden batch is ragged");
        let together = logits(&*model, &TokenBatch::new(&rows).unwrap());
        let alone: Vec<f32> = rows.iter().flat_map(|row| logits(&*model, &TokenBatch::new(&[row]).unwrap())).collect();
        assert_close(&alone, &together, 2e-5, &golden.name);
    }
}

#[test]
fn the_gradient_of_the_loss_at_a_hidden_state_agrees() {
    for golden in decoders() {
        let model = load(&golden.checkpoint());
        let row = golden.row(0);
        let mut pass = Pass::new(TokenBatch::new(&[&row]).unwrap(), &model.device());
        let start = Tensor::from_inner(golden.first_row("hidden_1")).require_grad();
        let end = model.run_layers(start.clone(), 1..model.spec().n_layers, &mut pass, &mut ()).unwrap();
        let predicting: Vec<usize> = (0..row.len() - 1).collect();
        let log_probs = activation::log_softmax(model.logits(end, &predicting).unwrap(), 1);
        let vocab = model.spec().vocab_size;
        let mut chosen = vec![0f32; predicting.len() * vocab];
        for (position, id) in row[1..].iter().enumerate() {
            chosen[position * vocab + *id as usize] = -1.0 / predicting.len() as f32;
        }
        let chosen = Tensor::<2>::from_data(TensorData::new(chosen, [predicting.len(), vocab]), &model.device());
        let loss = (log_probs * Tensor::from_inner(chosen)).sum();
        let gradient = start.grad(&loss.backward()).unwrap();
        let loss: f32 = loss.into_scalar();
        assert!((loss - golden.tensors.get("loss_row0")[0]).abs() < 1e-4, "{}: the loss is {loss}", golden.name);

        let want = values(&golden.first_row("grad_hidden_1"));
        let largest = want.iter().fold(0f32, |max, g| max.max(g.abs()));
        let difference = largest_difference(&values(&gradient), &want) / largest;
        println!("{}: gradient differs by {difference:e} of its largest value", golden.name);
        assert!(difference <= 1e-3, "{}: the gradient differs by {difference} of its largest value", golden.name);
    }
}

#[test]
fn a_changed_model_comes_back_from_its_checkpoint() {
    for golden in decoders() {
        let checkpoint = golden.checkpoint();
        let mut model = load(&checkpoint);
        let batch = TokenBatch::new(&[golden.row(0), golden.row(1)]).unwrap();
        let before = logits(&*model, &batch);
        let name = model.spec().mlp_out_weight(1);
        let weight = model.weight(&name).unwrap();
        // Doubled, because that is exact in the f16 of the files.
        let doubled = Matrix::from_tensor(&weight.mul_scalar(2.0)).unwrap();
        model.set_weight(&name, doubled.to_tensor(&model.device())).unwrap();
        let wanted = logits(&*model, &batch);
        assert!(largest_difference(&wanted, &before) > 1e-3, "{}: the change shows", golden.name);

        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("changed");
        save_checkpoint(&checkpoint, &BTreeMap::from([(name.clone(), doubled)]), &[], &out).unwrap();
        let saved = Checkpoint::open(&out).unwrap();
        let again = load(&saved);
        assert_eq!(logits(&*again, &batch), wanted, "{}", golden.name);
        assert_eq!(again.parameter_names(), model.parameter_names(), "{}", golden.name);
        for name in model.parameter_names() {
            assert_eq!(values(&again.weight(&name).unwrap()), values(&model.weight(&name).unwrap()), "{}: {name}", golden.name);
        }
        let (old, new) = (checkpoint.files().safetensors().unwrap(), saved.files().safetensors().unwrap());
        let stored = checkpoint.stored_name(&name).unwrap().unwrap();
        for (tensor, _) in old.tensors().filter(|(tensor, _)| *tensor != stored) {
            assert_eq!(old.raw(tensor), new.raw(tensor), "{}: {tensor}", golden.name);
        }
    }
}

#[test]
fn the_same_weights_in_a_pytorch_file_give_the_same_logits() {
    for golden in decoders() {
        let checkpoint = golden.checkpoint();
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(golden.folder.join(name), dir.path().join(name)).unwrap();
        }
        let source = checkpoint.files().safetensors().unwrap();
        let dtypes: Vec<String> = source.tensors().map(|(_, stored)| stored.dtype.to_string()).collect();
        let tensors: Vec<pytorch_support::Whole<'_>> = source
            .tensors()
            .zip(&dtypes)
            .map(|((name, stored), dtype)| (name, dtype.as_str(), &stored.shape[..], source.raw(name).unwrap()))
            .collect();
        pytorch_support::write(&dir.path().join(PYTORCH_FILE), &pytorch_support::bin(&tensors));
        let batch = TokenBatch::new(&[golden.row(0)]).unwrap();
        let pickled = load(&Checkpoint::open(dir.path()).unwrap());
        assert_eq!(logits(&*pickled, &batch), logits(&*load(&checkpoint), &batch), "{}", golden.name);
    }
}
