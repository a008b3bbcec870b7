use easyedit_core::{CheckedRequest, Edit, EditMethod, Error, Hparams, LanguageModel, Method, ModelSpec, Result, Session, WeightDelta};
use easyedit_kernels::{TargetLoss, TrainingRow};
use serde_json::{Value, json};

use crate::training::Training;
use crate::weights::weights_of;
use crate::{FtHparams, Objective};

/// A loss below this is not stepped on, and ends the training when it is the mean of a round.
const LOSS_THRESHOLD: f64 = 1e-2;

/// The method with its [`FtHparams`].
#[derive(Clone, Debug)]
pub struct Ft {
    hparams: FtHparams,
}

impl Method for Ft {
    type Hparams = FtHparams;
    const SUMMARY: &'static str = "fine-tuning of a few weights on the facts: FT-M, and FT-L with its bound (Zhu et al. 2020)";

    fn new(hparams: FtHparams) -> Self {
        Self { hparams }
    }

    fn hparams_for(spec: &ModelSpec) -> FtHparams {
        FtHparams::for_spec(spec)
    }
}

impl Ft {
    /// What is learned of a request. The decoder of an encoder-decoder has no prompt at whose end all tokens could be predicted: its targets
    /// are always predicted one behind the other, up to the end of the text.
    fn row(&self, model: &dyn LanguageModel, request: &CheckedRequest) -> Result<TrainingRow> {
        let is_encoder_decoder = model.spec().encoder.is_some();
        let tokens = TrainingRow::tokens_of(model, request, is_encoder_decoder)?;
        Ok(match self.hparams.objective_optimization {
            Objective::PromptLast if !is_encoder_decoder => TrainingRow::prompt_last(&tokens),
            _ => TrainingRow::teacher_forced(&tokens),
        })
    }
}

impl EditMethod for Ft {
    fn name(&self) -> &'static str {
        FtHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["lr", "num_steps", "norm_constraint"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, _: &Session) -> Result<()> {
        weights_of(model, &self.hparams.rewrite_module_tmp, &self.hparams.layers).map(|_| ())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        let hparams = &self.hparams;
        let names = weights_of(model, &hparams.rewrite_module_tmp, &hparams.layers)?;
        let rows = requests.iter().map(|request| self.row(model, request)).collect::<Result<Vec<TrainingRow>>>()?;
        let parts = TargetLoss::in_parts(model, &rows, hparams.batch_size, &names)?;
        let mut training = Training::new(model, &names, hparams)?;
        let mut losses = Vec::new();
        session.progress().begin("fine-tuning", Some(hparams.num_steps as u64));
        let outcome = (|| -> Result<()> {
            for step in 0..hparams.num_steps {
                let mut sum = 0.0;
                for part in &parts {
                    let pass = part.forward(&*training.model)?;
                    if !pass.loss.is_finite() {
                        return Err(Error::NotFinite(format!("the loss is {} in step {step}; choose a smaller lr", pass.loss)));
                    }
                    sum += pass.loss * part.rows() as f64;
                    if pass.loss >= LOSS_THRESHOLD {
                        training.step(&pass.backward()?)?;
                    }
                }
                let mean = sum / rows.len() as f64;
                losses.push(mean);
                session.progress().remark(&format!("loss {mean:.3}"));
                session.progress().step(1)?;
                if mean < LOSS_THRESHOLD {
                    break;
                }
            }
            Ok(())
        })();
        session.progress().end();
        outcome?;
        let deltas = training.deltas()?;
        let norms: serde_json::Map<String, Value> = deltas.iter().map(|(name, change)| (name.to_string(), told(&change.delta))).collect();
        let diagnostics = json!({ "losses": losses, "changes": norms });
        Ok(Edit::of(self, model, requests, session.seed(), diagnostics, deltas))
    }
}

/// Size of a change: its norm, and its largest number.
fn told(delta: &WeightDelta) -> Value {
    let values = match delta {
        WeightDelta::Dense(change) => change.values(),
        WeightDelta::Sparse { values, .. } => values,
        WeightDelta::LowRank { .. } => &[],
    };
    let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let largest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
    json!({ "norm": norm, "largest": largest, "places": values.iter().filter(|v| **v != 0.0).count() })
}
