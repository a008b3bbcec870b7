use std::collections::BTreeMap;

use burn::tensor::Tensor;
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{CheckedRequest, Error, HostTensor, Hparams, LanguageModel, Result};
use easyedit_kernels::SideBySide;
use easyedit_trainer::{Batch, LOOP_KEYS, MetaLearner, ParameterGroup, Split, StepReport};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::archive::{BaseModel, LearnedSettings};
use crate::factors::{Factors, WeightFactors, factors};
use crate::facts::Facts;
use crate::inner::InnerWeights;
use crate::losses::Likelihood;
use crate::measure::{EditExample, LossSettings, Measured, measure};
use crate::network::{Network, RATES};
use crate::{KlPositions, MendHparams};

/// Keys beside the loop's that change nothing in a training.
const WITHOUT_EFFECT: &[&str] = &["verbose", "debug", "save", "archive", "lr_scale"];

/// MEND in training: its network, the model it learns to edit, and the records to practise on.
pub struct MendLearner {
    model: Box<dyn LanguageModel>,
    hparams: MendHparams,
    inner: InnerWeights,
    network: Network,
    train: Facts,
    val: Facts,
    threads: SideBySide,
}

impl MendLearner {
    /// A learner with a fresh network. `train` and `val` are records in EasyEdit's form; those of one prompt count as one fact with several
    /// rephrased prompts and targets.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] or [`Error::Tensor`] if the settings do not fit the model.
    pub fn new(model: &dyn LanguageModel, hparams: MendHparams, train: &[CheckedRequest], val: &[CheckedRequest]) -> Result<Self> {
        hparams.check().map_err(Error::hparams)?;
        let inner = InnerWeights::new(model.spec(), &hparams.inner_params(model.spec()))?;
        let device = model.device();
        let mut rng = ChaCha8Rng::seed_from_u64(hparams.seed);
        let network = Network::new(&inner, &hparams, &mut rng, &device);
        let threads = SideBySide::new(&device, hparams.batch_size.max(hparams.val_batch_size))?;
        Ok(Self { model: model.boxed_clone(), inner, network, train: Facts::new(train), val: Facts::new(val), threads, hparams })
    }

    /// The state of `trained` in place of the fresh network.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if it was trained for another model, [`Error::Tensor`] if its tensors do not fit the settings.
    pub fn start_from(&mut self, trained: &easyedit_core::Trained) -> Result<()> {
        if let Some(learned) = LearnedSettings::of(trained)? {
            learned.check_base(&*self.model)?;
        }
        self.network.load(&trained.tensors)
    }

    fn facts_of(&self, split: Split) -> &Facts {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    fn losses(&self) -> LossSettings {
        let sign = if self.hparams.descent.unwrap_or(true) { -1.0 } else { 1.0 };
        LossSettings {
            cedit: self.hparams.cedit,
            cloc: self.hparams.cloc,
            strength: sign,
            all_positions: self.hparams.kl_positions == KlPositions::All,
        }
    }

    /// The outcome of edits by `examples`; in training, statistics take them in and gradients come with it.
    fn run(&mut self, examples: &[EditExample], training: bool) -> Result<(Vec<Likelihood>, Measured)> {
        let settings = self.losses();
        let part_size = examples.len().div_ceil(self.threads.parts()).max(1);
        let parts: Vec<&[EditExample]> = examples.chunks(part_size).collect();
        let (model, inner) = (&self.model, &self.inner);
        let models = |parts: &[&[EditExample]]| parts.iter().map(|_| model.boxed_clone()).collect::<Vec<_>>();
        let captured = self.threads.run(models(&parts).into_iter().zip(&parts).collect(), |(model, part)| {
            let rows: Vec<&[TargetTokens]> = part.iter().map(|example| example.inner.as_slice()).collect();
            factors(&*model, inner, &rows)
        })?;
        let before = captured.iter().flat_map(|factors| factors.before.iter().copied()).collect();
        let mut normalized: Vec<Vec<WeightFactors>> = captured.iter().map(|_| Vec::with_capacity(inner.len())).collect();
        let mut of_parts: Vec<_> = captured.into_iter().map(|Factors { of_weights, .. }| of_weights.into_iter()).collect();
        for weight in 0..self.inner.len() {
            let of_weight: Vec<WeightFactors> = of_parts.iter_mut().filter_map(Iterator::next).collect();
            if training {
                of_weight.iter().for_each(|factors| self.network.see(weight, factors));
            }
            for (normalized, factors) in normalized.iter_mut().zip(of_weight) {
                normalized.push(self.network.normalized(weight, factors)?);
            }
        }
        let share = training.then(|| 1.0 / examples.len() as f64);
        let (inner, network) = (&self.inner, &self.network);
        let work: Vec<_> = models(&parts).into_iter().zip(parts.iter().zip(&normalized)).collect();
        let measured = self.threads.run(work, |part| {
            let (model, (examples, factors)) = part;
            measure(&*model, inner, network, factors, examples, settings, share)
        })?;
        let mut all = Measured::default();
        measured.into_iter().for_each(|measured| all.append(measured));
        Ok((before, all))
    }

    /// Losses, metrics and, in training, gradients of edits that are given as rows. [`step`](MetaLearner::step) draws them from the records.
    ///
    /// # Errors
    ///
    /// If a row does not fit the model, the device fails, or outside of training if no training step has been made.
    pub fn step_on(&mut self, examples: &[EditExample], training: bool) -> Result<StepReport> {
        let (before, measured) = self.run(examples, training)?;
        Ok(self.report(&before, measured))
    }

    fn report(&self, before: &[Likelihood], measured: Measured) -> StepReport {
        let mut report = StepReport { gradients: measured.gradients, ..StepReport::default() };
        let mean = |likelihoods: &[Likelihood], value: fn(&Likelihood) -> f64| {
            likelihoods.iter().map(value).sum::<f64>() / likelihoods.len().max(1) as f64
        };
        let edits = measured.outer.len();
        let loss_edit = mean(&measured.outer, Likelihood::mean);
        let loss_loc = measured.kl.iter().sum::<f64>() / measured.kl.len().max(1) as f64;
        let total = self.hparams.cedit * loss_edit + self.hparams.cloc * loss_loc;
        report.put_mean("loss/inner", mean(before, Likelihood::mean), edits);
        report.put_mean("loss/edit", loss_edit, edits);
        report.put_mean("loss/loc", loss_loc, edits);
        report.put_mean("loss/total_edit", total, edits);
        report.put_mean("loss/total", total, edits);
        report.put_mean("edit/acc", mean(&measured.outer, Likelihood::accuracy), edits);
        report.put_mean("edit/exact", mean(&measured.outer, Likelihood::exact), edits);
        report.put_mean("edit/log_prob", -loss_edit, edits);
        report.put_mean("edit/prob", mean(&measured.outer, |likelihood| (-likelihood.mean()).exp()), edits);
        if !measured.inner.is_empty() {
            report.put_mean("inner/acc", mean(&measured.inner, Likelihood::accuracy), edits);
            report.put_mean("inner/exact", mean(&measured.inner, Likelihood::exact), edits);
        }
        for (when, answers) in [("pre", &measured.pre), ("post", &measured.post)] {
            let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
            if tokens > 0 {
                let right: usize = answers.iter().map(|answer| answer.right).sum();
                report.put_mean(format!("acc/{when}"), right as f64 / tokens as f64, tokens);
                report.put_mean(format!("nll/{when}"), answers.iter().map(|answer| answer.nll).sum::<f64>() / tokens as f64, tokens);
                report.put(format!("n_tokens/{when}"), tokens as f64);
            }
        }
        let ((near_kept, near), (far_kept, far)) = (measured.kept_near, measured.kept_far);
        for (key, kept, rows) in
            [("loc/exact", near_kept + far_kept, near + far), ("loc/near_exact", near_kept, near), ("loc/far_exact", far_kept, far)]
        {
            if rows > 0 {
                report.put_mean(key, kept as f64 / rows as f64, rows);
            }
        }
        report
    }
}

impl MetaLearner for MendLearner {
    fn name(&self) -> &str {
        MendHparams::METHOD
    }

    fn identity(&self) -> Result<Value> {
        let mut identity = match serde_json::to_value(&self.hparams).map_err(Error::other)? {
            Value::Object(hparams) => hparams,
            _ => serde_json::Map::new(),
        };
        LOOP_KEYS.iter().chain(WITHOUT_EFFECT).for_each(|key| {
            identity.remove(*key);
        });
        identity.insert("inner_params".into(), json!(self.hparams.inner_params(self.model.spec())));
        identity.insert("training records".into(), json!(self.train.fingerprint()?));
        identity.insert("validation records".into(), json!(self.val.fingerprint()?));
        identity.insert("base model".into(), json!(easyedit_kernels::sampled_fingerprint(&*self.model)?));
        Ok(Value::Object(identity))
    }

    fn facts(&self) -> Result<Value> {
        let learned = LearnedSettings::new(&self.hparams, self.hparams.inner_params(self.model.spec()), BaseModel::of(&*self.model)?);
        serde_json::to_value(learned).map_err(Error::other)
    }

    fn examples(&self, split: Split) -> usize {
        self.facts_of(split).len()
    }

    fn metric_keys(&self) -> Vec<String> {
        let mut keys = vec![
            "loss/inner",
            "loss/edit",
            "loss/loc",
            "loss/total_edit",
            "loss/total",
            "edit/acc",
            "edit/exact",
            "edit/log_prob",
            "edit/prob",
            "inner/acc",
            "inner/exact",
        ];
        if self.hparams.n_loc > 0 {
            keys.extend(["acc/pre", "acc/post", "nll/pre", "nll/post", "n_tokens/pre", "n_tokens/post", "loc/exact"]);
            keys.extend((self.hparams.hard_neg_prob > 0.0).then_some("loc/near_exact"));
            keys.extend((self.hparams.hard_neg_prob < 1.0).then_some("loc/far_exact"));
        }
        keys.into_iter().map(str::to_owned).collect()
    }

    fn groups(&self) -> Vec<ParameterGroup> {
        let names = self.network.parameters().into_iter().map(|(name, _)| name);
        let (rates, net): (Vec<String>, Vec<String>) = names.partition(|name| name == RATES);
        let MendHparams { lr, lr_lr, weight_decay, .. } = self.hparams;
        vec![
            ParameterGroup { name: "network".into(), parameters: net, lr, weight_decay },
            ParameterGroup { name: "rates".into(), parameters: rates, lr: lr_lr, weight_decay: 0.0 },
        ]
    }

    fn parameter(&self, name: &str) -> Result<Tensor<2>> {
        let found = self.network.parameters().into_iter().find(|(known, _)| known == name);
        found.map(|(_, tensor)| tensor.clone()).ok_or_else(|| unknown(name))
    }

    fn set_parameter(&mut self, name: &str, value: Tensor<2>) -> Result<()> {
        let (_, tensor) = self.network.parameters_mut().into_iter().find(|(known, _)| known == name).ok_or_else(|| unknown(name))?;
        if tensor.dims() != value.dims() {
            return Err(Error::tensor(name, format!("has shape {:?}, not {:?}", tensor.dims(), value.dims())));
        }
        *tensor = value;
        Ok(())
    }

    fn step(&mut self, batch: &Batch, training: bool) -> Result<StepReport> {
        let mut rng = batch.rng();
        let facts = self.facts_of(batch.split);
        let examples = batch.examples.iter().map(|number| facts.example(&*self.model, *number, &self.hparams, training, &mut rng));
        let examples = examples.collect::<Result<Vec<EditExample>>>()?;
        self.step_on(&examples, training)
    }

    fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.network.state()
    }

    fn load_state(&mut self, state: &BTreeMap<String, HostTensor>) -> Result<()> {
        self.network.load(state)
    }
}

fn unknown(name: &str) -> Error {
    Error::tensor(name, "is no parameter of the network")
}
