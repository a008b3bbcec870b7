//! Training of the small models: a plain loop over burn's gradients.

mod batches;
mod blindness;

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, activation};
use easyedit_core::{LanguageModel, Matrix, ParamName, Progress, TokenBatch, TokenRow, TokenSlice, Tokenizer, tensor_values};
use easyedit_kernels::{Adam, AdamConfig};
use easyedit_models::{InitialWeights, ModelConfig, load_model};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::architecture::Architecture;
use crate::{Error, Result, World};
use batches::{Batches, Row};
use blindness::Blindness;

/// Settings of [`train`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TrainingConfig {
    /// Steps.
    pub steps: usize,
    /// Tokens of one step.
    pub tokens: usize,
    /// Learning rate after warm-up; it falls to a tenth along a cosine.
    pub lr: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Seed of the initial weights and of the order of sentences.
    pub seed: u64,
}

impl TrainingConfig {
    /// The settings the model of that name was made with.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownModel`].
    pub fn of(name: &str) -> Result<Self> {
        Ok(Self { steps: Architecture::named(name)?.steps, tokens: 1536, lr: 3e-3, weight_decay: 0.1, seed: 1 })
    }
}

/// Steps in which the learning rate rises.
const WARM_UP: usize = 50;
/// Gradients whose norm is larger are scaled down to it.
const MAX_NORM: f64 = 1.0;

/// One parameter in training.
struct Leaf {
    name: ParamName,
    shape: [usize; 2],
    values: Vec<f64>,
    adam: Adam,
    tracked: Tensor<2>,
}

/// Trains a model of the given name on the world from scratch.
///
/// # Errors
///
/// [`Error::UnknownModel`]; [`Error::Training`] if the loss stops being finite.
pub fn train(
    name: &str,
    world: &World,
    tokenizer: &Tokenizer,
    config: &TrainingConfig,
    progress: &dyn Progress,
) -> Result<Box<dyn LanguageModel>> {
    let device = easyedit_core::device::select("cpu")?;
    let architecture = Architecture::named(name)?;
    let model_config = ModelConfig::new(architecture.config()?, "config.json")?;
    let mut model = load_model(&model_config, name, &InitialWeights { seed: config.seed }, tokenizer.clone(), &device)?;
    let mut batches = Batches::new(&*model, &world.sentences(), ChaCha8Rng::seed_from_u64(config.seed))?;
    let mut leaves = leaves(&*model, config)?;
    progress.begin(&format!("training {name}"), Some(config.steps as u64));
    for step in 0..config.steps {
        for leaf in &mut leaves {
            leaf.tracked = tracked(leaf, &*model)?;
            model.set_weight(&leaf.name, leaf.tracked.clone())?;
        }
        let (loss, gradients) = gradients(&*model, &leaves, &batches.next(config.tokens))?;
        if !loss.is_finite() {
            return Err(Error::Training { model: name.to_owned(), message: format!("the loss is {loss} in step {step}") });
        }
        let norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let scale = if norm > MAX_NORM { MAX_NORM / norm } else { 1.0 };
        let lr = learning_rate(step, config);
        for (leaf, mut gradient) in leaves.iter_mut().zip(gradients) {
            gradient.iter_mut().for_each(|g| *g *= scale);
            leaf.adam.set_lr(lr);
            leaf.adam.step(&mut leaf.values, &gradient);
        }
        progress.advance(1);
        progress.remark(&format!("loss {loss:.4}"));
    }
    progress.end();
    for leaf in &leaves {
        model.set_weight(&leaf.name, plain(leaf)?.to_tensor(&device))?;
    }
    Ok(model)
}

fn leaves(model: &dyn LanguageModel, config: &TrainingConfig) -> Result<Vec<Leaf>> {
    let leaf = |name: ParamName| -> Result<Leaf> {
        let tracked = model.weight(&name)?;
        let shape = tracked.dims();
        let values: Vec<f64> = tensor_values(&tracked)?.into_iter().map(f64::from).collect();
        let weight_decay = if shape[0] > 1 { config.weight_decay } else { 0.0 };
        let adam = Adam::new(values.len(), AdamConfig { lr: config.lr, betas: [0.9, 0.98], epsilon: 1e-8, weight_decay });
        Ok(Leaf { name, shape, values, adam, tracked })
    };
    model.parameter_names().into_iter().map(leaf).collect()
}

fn plain(leaf: &Leaf) -> Result<Matrix> {
    let [rows, cols] = leaf.shape;
    let values = leaf.values.iter().map(|v| *v as f32).collect();
    Matrix::new(rows, cols, values)
        .ok_or_else(|| Error::Training { model: leaf.name.to_string(), message: "a parameter lost its shape".into() })
}

fn tracked(leaf: &Leaf, model: &dyn LanguageModel) -> Result<Tensor<2>> {
    Ok(plain(leaf)?.to_tensor(&model.device().autodiff()).require_grad())
}

fn learning_rate(step: usize, config: &TrainingConfig) -> f64 {
    let warm_up = ((step + 1) as f64 / WARM_UP as f64).min(1.0);
    let fall = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / config.steps as f64).cos());
    config.lr * warm_up * (0.1 + 0.9 * fall)
}

/// Mean weighted loss of the rows, and its gradient by every parameter.
fn gradients(model: &dyn LanguageModel, leaves: &[Leaf], rows: &[Row]) -> Result<(f64, Vec<Vec<f64>>)> {
    let inputs: Vec<TokenSlice<'_>> = rows.iter().map(|row| row.tokens.prefix(row.tokens.len() - 1)).collect();
    let batch = TokenBatch::new(&inputs)?;
    let targets: Vec<(u32, f32)> =
        rows.iter().flat_map(|row| row.tokens.ids().iter().copied().zip(row.weights.iter().copied()).skip(1)).collect();
    let device = model.device();
    let tokens = batch.tokens();
    let sources: Vec<&TokenRow> = rows.iter().map(|row| &row.source).collect();
    let mut pass = model.start(&sources, batch)?;
    let hidden = model.hidden(&mut pass, &mut Blindness::new(rows, &device))?;
    let logits = model.logits(hidden, &(0..tokens).collect::<Vec<_>>())?;

    // The gradient by the logits in closed form (softmax minus target), so that the loss itself needs no graph.
    let total: f32 = targets.iter().map(|(_, weight)| weight).sum();
    let ids: Vec<i64> = targets.iter().map(|(id, _)| i64::from(*id)).collect();
    let weights: Vec<f32> = targets.iter().map(|(_, weight)| weight / total).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [tokens, 1]), &device);
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [tokens, 1]), &device);
    let log_probs = activation::log_softmax(logits.clone().inner(), 1);
    let of_targets = log_probs.clone().gather(1, ids.clone()) * weights.clone();
    let loss = -tensor_values(&of_targets)?.into_iter().map(f64::from).sum::<f64>();
    let slope = (log_probs.exp() * weights.clone()).scatter(1, ids, -weights, IndexingUpdateOp::Add);
    let grads = (logits * Tensor::from_inner(slope)).sum().backward();
    let of_leaf = |leaf: &Leaf| -> Result<Vec<f64>> {
        let gradient = leaf
            .tracked
            .grad(&grads)
            .ok_or_else(|| Error::Training { model: model.spec().name.clone(), message: format!("{} has no gradient", leaf.name) })?;
        Ok(tensor_values(&gradient)?.into_iter().map(f64::from).collect())
    };
    Ok((loss, leaves.iter().map(of_leaf).collect::<Result<_>>()?))
}
