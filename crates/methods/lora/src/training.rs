use burn::tensor::{Gradients, Tensor, TensorData};
use easyedit_core::{Error, LanguageModel, Progress, Result, tensor_values};
use easyedit_kernels::{Adam, AdamConfig, TargetLoss};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::adapter::{Adapter, Tracked};
use crate::allocation::{Importance, Pruning, Schedule, best};
use crate::orthogonality::orthogonality;
use crate::{LoraHparams, LoraType};

/// The adapters in training, inside a clone of the model.
pub(crate) struct Training<'a> {
    hparams: &'a LoraHparams,
    model: Box<dyn LanguageModel>,
    trained: Vec<Trained>,
    /// Of AdaLoRA.
    schedule: Option<Schedule>,
    rng: ChaCha8Rng,
}

struct Trained {
    adapter: Adapter,
    /// Of reads, writes and gains.
    adams: [Adam; 3],
    importances: [Importance; 3],
    /// Ranks that are left, once the budget is final.
    kept: Vec<bool>,
}

impl<'a> Training<'a> {
    /// Training of `adapters` (each of at least one rank) on `parts` per round.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if the phases of the budget do not fit into the steps.
    pub(crate) fn new(
        model: &dyn LanguageModel,
        adapters: Vec<Adapter>,
        parts: usize,
        hparams: &'a LoraHparams,
        rng: ChaCha8Rng,
    ) -> Result<Self> {
        let schedule = match hparams.lora_type {
            LoraType::Lora => None,
            LoraType::AdaLora => Some(schedule(hparams, &adapters, parts)?),
        };
        let config = AdamConfig { lr: hparams.lr, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0 };
        let trained = adapters.into_iter().map(|adapter| {
            let counts = [adapter.reads.len(), adapter.writes.len(), adapter.gains.as_ref().map_or(0, Vec::len)];
            let kept = vec![true; adapter.rank];
            let importances = counts.map(|count| Importance::new(if schedule.is_some() { count } else { 0 }));
            Trained { adapter, adams: counts.map(|count| Adam::new(count, config)), importances, kept }
        });
        Ok(Self { hparams, model: model.boxed_clone(), trained: trained.collect(), schedule, rng })
    }

    /// Trains to the end. Gives the adapters without pruned ranks, and the mean loss of each round.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] if the loss is not.
    pub(crate) fn run(mut self, parts: &[TargetLoss], progress: &dyn Progress) -> Result<(Vec<Adapter>, Vec<f64>)> {
        let rows: usize = parts.iter().map(TargetLoss::rows).sum();
        let (mut losses, mut step) = (Vec::new(), 0);
        for round in 0..self.hparams.num_steps {
            let mut sum = 0.0;
            for part in parts {
                step += 1;
                let factors = self.place()?;
                let pass = part.forward(&*self.model)?;
                if !pass.loss.is_finite() {
                    return Err(Error::NotFinite(format!("the loss is {} in step {round}; choose a smaller lr", pass.loss)));
                }
                sum += pass.loss * part.rows() as f64;
                self.descend(&factors, &pass.backward()?)?;
                self.prune(step);
            }
            let mean = sum / rows.max(1) as f64;
            losses.push(mean);
            progress.remark(&format!("loss {mean:.3}"));
            progress.step(1)?;
            if self.hparams.early_stop_loss.is_some_and(|enough| mean < enough) {
                match self.schedule.filter(|schedule| !schedule.is_settled(step)) {
                    Some(schedule) => {
                        step = schedule.settled();
                        self.prune(step);
                    }
                    None => break,
                }
            }
        }
        let adapters = self.trained.into_iter().map(|Trained { mut adapter, kept, .. }| {
            adapter.keep(&kept);
            adapter
        });
        Ok((adapters.collect(), losses))
    }

    /// Puts the adapted weights into the model.
    fn place(&mut self) -> Result<Vec<Tracked>> {
        let (scale, dropout) = (self.hparams.scale(), self.hparams.lora_dropout);
        let mut factors = Vec::with_capacity(self.trained.len());
        for Trained { adapter, .. } in &self.trained {
            let inputs = (dropout > 0.0).then(|| {
                let width = adapter.d_in();
                let left = 1.0 / (1.0 - dropout) as f32;
                let inputs: Vec<f32> = (0..width).map(|_| if self.rng.random_bool(dropout) { 0.0 } else { left }).collect();
                Tensor::<2>::from_data(TensorData::new(inputs, [1, width]), &self.model.device())
            });
            let (tracked, weight) = adapter.place(scale, inputs);
            self.model.set_weight(&adapter.name, weight)?;
            factors.push(tracked);
        }
        Ok(factors)
    }

    /// One step of every factor.
    fn descend(&mut self, factors: &[Tracked], gradients: &Gradients) -> Result<()> {
        // The orthogonality term is the mean over all factors of AdaLoRA.
        let orthogonal = self.schedule.map(|_| self.hparams.orth_reg_weight / (2 * self.trained.len()) as f64);
        let betas = [self.hparams.beta1, self.hparams.beta2];
        for (trained, tracked) in self.trained.iter_mut().zip(factors) {
            let adapter = &mut trained.adapter;
            let rank = adapter.rank;
            let wanted = [
                (Some(&tracked.reads), Some(&mut adapter.reads)),
                (Some(&tracked.writes), Some(&mut adapter.writes)),
                (tracked.gains.as_ref(), adapter.gains.as_mut()),
            ];
            let states = trained.adams.iter_mut().zip(&mut trained.importances);
            for (number, ((tensor, values), (adam, importance))) in wanted.into_iter().zip(states).enumerate() {
                let (Some(tensor), Some(values)) = (tensor, values) else { continue };
                let mut gradient = match tensor.grad(gradients) {
                    Some(gradient) => tensor_values(&gradient)?.into_iter().map(f64::from).collect(),
                    None => vec![0.0; values.len()],
                };
                if let Some(weight) = orthogonal.filter(|_| number < 2) {
                    let (_, slope) = orthogonality(values, rank);
                    gradient.iter_mut().zip(slope).for_each(|(g, slope)| *g += weight * slope);
                }
                if self.hparams.weight_decay > 0.0 {
                    gradient.iter_mut().zip(values.iter()).for_each(|(g, value)| *g += self.hparams.weight_decay * value);
                }
                if orthogonal.is_some() {
                    importance.see(values, &gradient, betas);
                }
                adam.step(values, &gradient);
            }
        }
        Ok(())
    }

    /// Sets the gains of what the budget leaves no room for to 0.
    fn prune(&mut self, step: usize) {
        let Some(schedule) = self.schedule else { return };
        let scores = || -> Vec<Vec<f64>> {
            let score = |trained: &Trained| {
                let [reads, writes, gains] = [0, 1, 2].map(|factor| trained.importances[factor].scores(trained.adapter.rank));
                reads.iter().zip(writes).zip(gains).map(|((reads, writes), gain)| reads + writes + gain).collect()
            };
            self.trained.iter().map(score).collect()
        };
        let now = match schedule.after(step) {
            Pruning::None => None,
            Pruning::Budget(budget) => Some(best(&scores(), budget)),
            Pruning::Final(budget) => {
                let kept = best(&scores(), budget);
                self.trained.iter_mut().zip(&kept).for_each(|(trained, kept)| trained.kept.clone_from(kept));
                Some(kept)
            }
        };
        for (index, trained) in self.trained.iter_mut().enumerate() {
            let kept = now.as_ref().and_then(|now| now.get(index)).unwrap_or(&trained.kept);
            let gains = trained.adapter.gains.iter_mut().flatten();
            gains.zip(kept).filter(|(_, kept)| !**kept).for_each(|(gain, _)| *gain = 0.0);
        }
    }
}

fn schedule(hparams: &LoraHparams, adapters: &[Adapter], parts: usize) -> Result<Schedule> {
    let total = hparams.num_steps * parts;
    let (initial, last) = (hparams.t_init.unwrap_or(total / 10), hparams.t_final.unwrap_or(3 * total / 10));
    if initial + last >= total {
        return Err(Error::hparams(format!("t_init {initial} and t_final {last} leave none of the {total} steps to prune in")));
    }
    let from: usize = adapters.iter().map(|adapter| adapter.rank).sum();
    let to = from.min(hparams.rank * adapters.len());
    Ok(Schedule { total, initial, last, every: hparams.delta_t, from, to })
}
