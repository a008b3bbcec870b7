use burn::tensor::{Gradients, Tensor, activation};
use easyedit_core::{
    Error, LanguageModel, ModelSpec, NormRole, ParamName, Parameter, ParameterRole, Pass, Result, Stack, TokenBatch, TokenRow,
};

use super::TrainingRow;
use crate::{TargetLikelihood, target_likelihood};

/// The negative log-likelihood of what rows are to predict: the mean over the rows of the mean over a row's predictions.
///
/// What the weights in training cannot change is run once: the layers below the first of them, and the encoder if none is there. A pass
/// runs the rest, and the head only where something is predicted. The gradient enters at the logits in closed form (softmax minus target),
/// so nothing of the vocabulary's size is kept for the way back.
pub struct TargetLoss {
    start: Start,
    /// Positions whose logits are read.
    positions: Vec<usize>,
    /// Per prediction: its row, the id, and its weight in the loss.
    predictions: Vec<(usize, u32, f32)>,
    rows: usize,
}

/// Where a pass begins.
enum Start {
    /// With the embedding, and the encoder if there is one.
    Beginning { sources: Vec<TokenRow>, batch: TokenBatch },
    /// With a layer, from the activations that enter it.
    Layer { layer: usize, pass: Box<Pass>, hidden: Tensor<2> },
}

/// A pass of a [`TargetLoss`], kept for the way back.
pub struct LossPass {
    /// The loss.
    pub loss: f64,
    /// That of each row.
    pub row_losses: Vec<f64>,
    /// Whether every token to predict is the most probable one.
    pub predicted: bool,
    logits: Tensor<2>,
    /// Derivative of the loss by the logits.
    slope: Tensor<2>,
}

impl TargetLoss {
    /// The loss of `rows` while the weights `trained` change and the others stay as they are in `model`.
    ///
    /// # Errors
    ///
    /// If there are no rows, one predicts nothing or outside of its tokens, or does not fit the model; if a weight is none of the model's.
    pub fn new(model: &dyn LanguageModel, rows: &[TrainingRow], trained: &[ParamName]) -> Result<Self> {
        let batch = TokenBatch::new(&rows.iter().map(|text| &text.row).collect::<Vec<&TokenRow>>())?;
        let (mut positions, mut predictions) = (Vec::new(), Vec::new());
        for (number, row) in rows.iter().enumerate() {
            if row.predictions.is_empty() || row.predictions.iter().any(|(index, _)| *index >= row.row.len()) {
                return Err(Error::Batch(format!("row {number} predicts nothing, or outside of its {} tokens", row.row.len())));
            }
            let weight = 1.0 / (rows.len() * row.predictions.len()) as f32;
            positions.extend(row.predictions.iter().map(|(index, _)| batch.index(number, *index)));
            predictions.extend(row.predictions.iter().map(|(_, id)| (number, *id, weight)));
        }
        let vocabulary = model.spec().vocab_size;
        if let Some((row, id, _)) = predictions.iter().find(|(_, id, _)| *id as usize >= vocabulary) {
            return Err(Error::Batch(format!("row {row} is to predict token {id}, beyond the {vocabulary} of {}", model.spec().name)));
        }
        let sources: Vec<TokenRow> = rows.iter().map(|row| row.source.clone()).collect();
        let first = trained.iter().map(|name| first_layer(model.spec(), name)).collect::<Result<Vec<_>>>()?;
        let first = first.into_iter().min().unwrap_or(Some(model.spec().n_layers));
        let start = match first {
            None => Start::Beginning { sources, batch },
            Some(layer) => {
                let mut pass = Box::new(model.start(&sources, batch)?);
                let hidden = model.embed(&pass)?;
                let hidden = model.run_layers(hidden, 0..layer, &mut pass, &mut ())?;
                Start::Layer { layer, pass, hidden }
            }
        };
        Ok(Self { start, positions, predictions, rows: rows.len() })
    }

    /// The losses of `rows` in parts of at most `size`, in their order.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn in_parts(model: &dyn LanguageModel, rows: &[TrainingRow], size: usize, trained: &[ParamName]) -> Result<Vec<Self>> {
        rows.chunks(size.max(1)).map(|part| Self::new(model, part, trained)).collect()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The first layer that a pass runs.
    pub fn first_layer(&self) -> usize {
        match &self.start {
            Start::Beginning { .. } => 0,
            Start::Layer { layer, .. } => *layer,
        }
    }

    /// The loss with the weights that `model` has now: a clone of the model the loss was made with, in which nothing but the trained weights
    /// may differ; those whose gradient is wanted are tracked.
    ///
    /// # Errors
    ///
    /// If the model does not fit, or the device fails.
    pub fn forward(&self, model: &dyn LanguageModel) -> Result<LossPass> {
        let (first, mut pass, hidden) = match &self.start {
            Start::Beginning { sources, batch } => {
                let pass = model.start(sources, batch.clone())?;
                let hidden = model.embed(&pass)?;
                (0, pass, hidden)
            }
            Start::Layer { layer, pass, hidden } => (*layer, (**pass).clone(), hidden.clone()),
        };
        let hidden = model.run_layers(hidden, first..model.spec().n_layers, &mut pass, &mut ())?;
        let logits = self.logits(model, hidden)?;
        let plain = if logits.is_autodiff() { logits.clone().inner() } else { logits.clone() };
        let log_probs = activation::log_softmax(plain, 1);
        let ids: Vec<u32> = self.predictions.iter().map(|(_, id, _)| *id).collect();
        let weights: Vec<f32> = self.predictions.iter().map(|(.., weight)| *weight).collect();
        let TargetLikelihood { log_probs, predicted, slope } = target_likelihood(&log_probs, &ids, &weights)?;
        let mut row_losses = vec![0f64; self.rows];
        for ((row, _, weight), log_prob) in self.predictions.iter().zip(&log_probs) {
            if let Some(loss) = row_losses.get_mut(*row) {
                *loss -= f64::from(*log_prob) * f64::from(*weight) * self.rows as f64;
            }
        }
        let loss = row_losses.iter().sum::<f64>() / self.rows as f64;
        let predicted = predicted.iter().all(|predicted| *predicted);
        Ok(LossPass { loss, row_losses, predicted, logits, slope })
    }

    /// The logits of every prediction; where several share a position, the head is asked once.
    fn logits(&self, model: &dyn LanguageModel, hidden: Tensor<2>) -> Result<Tensor<2>> {
        let mut unique = self.positions.clone();
        unique.dedup();
        let logits = model.logits(hidden, &unique)?;
        if unique.len() == self.positions.len() {
            return Ok(logits);
        }
        // Equal positions stand together.
        let mut places = Vec::with_capacity(self.positions.len());
        for (index, position) in self.positions.iter().enumerate() {
            let before = places.last().copied().unwrap_or(0);
            places.push(if index > 0 && self.positions[index - 1] != *position { before + 1 } else { before });
        }
        Ok(model.rows_of(logits, &places))
    }
}

impl LossPass {
    /// Gradients by the tracked tensors that the model's weights were made of.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if no weight was tracked, or none that the loss depends on.
    pub fn backward(self) -> Result<Gradients> {
        if !self.logits.is_autodiff() {
            return Err(Error::Batch("none of the weights in training has an influence on the targets".into()));
        }
        Ok((self.logits * Tensor::from_inner(self.slope)).sum().backward())
    }
}

/// The first layer that a change of the parameter reaches: the number of layers for what stands behind them, `None` if it reaches what
/// comes before.
fn first_layer(spec: &ModelSpec, name: &ParamName) -> Result<Option<usize>> {
    use ParameterRole::{Head, HeadBias, NormBias, NormWeight};
    let Parameter { stack, layer, role, .. } = spec.parameter(name)?;
    Ok(match (*stack, role) {
        (Stack::Decoder, NormWeight(NormRole::Final) | NormBias(NormRole::Final) | Head | HeadBias) => Some(spec.n_layers),
        (Stack::Decoder, _) => *layer,
        _ => None,
    })
}
