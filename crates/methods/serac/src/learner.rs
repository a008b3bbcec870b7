//! SERAC as the training loop sees it.

use std::collections::BTreeMap;

use burn::tensor::{Gradients, Tensor};
use easyedit_core::tokens::{TargetTokens, encode_with_target, join_target};
use easyedit_core::{
    CheckedRequest, Error, HostTensor, Hparams, LanguageModel, ParamName, Predictor, Result, Session, Stack, tensor_values,
};
use easyedit_kernels::sampled_fingerprint;
use easyedit_trainer::{Batch, LOOP_KEYS, MetaLearner, ParameterGroup, Split, StepReport};
use serde_json::{Value, json};

use crate::classifier::PREFIX;
use crate::examples::{Drawn, Examples, Names, Question};
use crate::losses::{Answers, MixtureLoss, Predictions, mixture_kl, mixture_nll, nll, number, scope_loss};
use crate::networks::{REPLACEMENT, vocabulary};
use crate::scope_counts::ScopeCounts;
use crate::threshold::best_threshold;
use crate::{Identity, Networks, SeracHparams, Threshold, TrainedFacts};

/// Trains scope classifier and counterfactual model.
///
/// Supervised, the counterfactual model learns to answer behind the right memory, and the classifier to tell queries in scope from others;
/// the two share no parameter. Otherwise both learn through the mixture with the base model, and the memory is that of the whole batch.
///
/// # Source
///
/// Mitchell et al. 2022, section 3.3, and its code; the mixture is what EasyEdit trains.
pub struct SeracLearner {
    hparams: SeracHparams,
    base: Box<dyn LanguageModel>,
    networks: Networks,
    train: Examples,
    val: Examples,
    /// Names of the parameters in training.
    classifier: Vec<String>,
    replacement: Vec<String>,
    /// Scores of the latest validation, and whether their queries are in scope.
    validated: Vec<(f64, bool)>,
}

impl std::fmt::Debug for SeracLearner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeracLearner").field("base", &self.base.spec().name).field("networks", &self.networks).finish_non_exhaustive()
    }
}

impl SeracLearner {
    /// A learner for `base` with the networks that the hyperparameters name; those of their archive, if they name one.
    ///
    /// # Errors
    ///
    /// If a network or the archive cannot be had or does not fit; [`Error::Hparams`] if nothing is left to train, or a mixture is asked of
    /// models whose vocabularies differ.
    pub fn new(
        hparams: SeracHparams,
        base: &dyn LanguageModel,
        train: &[CheckedRequest],
        val: &[CheckedRequest],
        session: &Session,
    ) -> Result<Self> {
        let mut networks = Networks::open(&hparams, &base.device(), session)?;
        if let Some(archive) = hparams.archive.as_deref().filter(|archive| !archive.trim().is_empty()) {
            networks.take_over(&session.corpora().trained(archive, SeracHparams::METHOD)?, hparams.freeze_cntr)?;
        }
        Self::with_networks(hparams, base, networks, train, val)
    }

    /// A learner that begins with these networks.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_networks(
        hparams: SeracHparams,
        base: &dyn LanguageModel,
        networks: Networks,
        train: &[CheckedRequest],
        val: &[CheckedRequest],
    ) -> Result<Self> {
        let small = &networks.counterfactual;
        if hparams.is_soft() && vocabulary(base.tokenizer()) != vocabulary(small.tokenizer()) {
            return Err(Error::hparams(format!(
                "supervised is false or soft_weighting true, which mix the probabilities of {} and {}; their vocabularies differ: train with supervised: true and route",
                base.spec().name,
                small.spec().name
            )));
        }
        let classifier = trained_of_classifier(&networks, &hparams);
        let replacement = if hparams.freeze_cntr { Vec::new() } else { trained_of_counterfactual(&**small, hparams.freeze_below)? };
        if classifier.is_empty() && replacement.is_empty() {
            return Err(Error::hparams("freeze and freeze_cntr leave nothing to train"));
        }
        let names = || Names::of(small.tokenizer());
        let (train, val) = (Examples::new(train, &hparams, names()), Examples::new(val, &hparams, names()));
        Ok(Self { base: base.boxed_clone(), networks, train, val, classifier, replacement, hparams, validated: Vec::new() })
    }

    /// The networks as they are trained so far.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// What a query's score has to be above, as the trained file says it.
    fn threshold(&self) -> f64 {
        match self.hparams.threshold {
            Some(Threshold::Auto) => best_threshold(&self.validated).unwrap_or(Threshold::HALF),
            _ => self.hparams.threshold_or_half(),
        }
    }

    /// The networks with the parameters in training tracked, and those tensors by name.
    fn tracked(&self, training: bool) -> Result<(Networks, Vec<(String, Tensor<2>)>)> {
        let mut networks = self.networks.clone();
        let mut leaves = Vec::new();
        if training {
            for name in self.classifier.iter().chain(&self.replacement) {
                let leaf = Tensor::from_inner(self.networks.weight(name)?).require_grad();
                networks.set_weight(name, leaf.clone())?;
                leaves.push((name.clone(), leaf));
            }
        }
        Ok((networks, leaves))
    }

    /// Supervised: the two parts apart.
    fn supervised(&self, drawn: &[Drawn], training: bool) -> Result<Scored> {
        let (networks, leaves) = self.tracked(training)?;
        let rows = drawn
            .iter()
            .map(|one| behind_memory(&*networks.counterfactual, one, self.hparams.learn_end))
            .collect::<Result<Vec<TargetTokens>>>()?;
        let predictions = Predictions::of(&*networks.counterfactual, &rows.iter().collect::<Vec<_>>())?;
        let (answers, of_answers) = nll(&predictions, self.hparams.cedit)?;

        let positive: Vec<(&str, &str)> = drawn.iter().map(|one| (one.outer.prompt.as_str(), one.memory.prompt.as_str())).collect();
        let negative = self.negative_pairs(drawn);
        let both: Vec<(&str, &str)> = positive.iter().chain(&negative).copied().collect();
        let scores = networks.classifier.log_scores(&both)?;
        let (in_scope, others) = (scores.clone().narrow(0, 0, positive.len()), negative.len());
        let out = (others > 0).then(|| scores.clone().narrow(0, positive.len(), others));
        let of_scope = scope_loss(in_scope, out);
        let scope = number(&of_scope)?;

        let values = tensor_values(&if scores.is_autodiff() { scores.inner() } else { scores })?;
        let counts = ScopeCounts::of(&values[..positive.len()], &values[positive.len()..], self.hparams.threshold_or_half());
        let mut report = self.report(&answers, scope);
        counts.put(&mut report);
        let routed = answers.exact.iter().zip(&values).filter(|(exact, score)| **exact && counts.is_in_scope(**score)).count();
        report.put_mean("edit/routed", routed as f64 / drawn.len().max(1) as f64, drawn.len());
        report.put_mean("loc/acc", counts.kept_out(), negative.len().max(1));
        if training {
            let mut gradients = BTreeMap::new();
            if !self.replacement.is_empty() {
                collect(&leaves, REPLACEMENT, &of_answers.backward(), &mut gradients);
            }
            if !self.classifier.is_empty() {
                collect(&leaves, PREFIX, &(of_scope * self.hparams.cloc).backward(), &mut gradients);
            }
            report.gradients = gradients;
        }
        let scores = scored(&values[..positive.len()], &values[positive.len()..]);
        Ok((report, scores))
    }

    fn negative_pairs<'d>(&self, drawn: &'d [Drawn]) -> Vec<(&'d str, &'d str)> {
        let own = |one: &'d Drawn| one.locality.iter().map(|negative| (negative.prompt.as_str(), one.memory.prompt.as_str()));
        if !self.hparams.use_all_negatives {
            return drawn.iter().flat_map(own).collect();
        }
        let all = drawn.iter().flat_map(|one| &one.locality);
        all.flat_map(|negative| drawn.iter().map(|one| (negative.prompt.as_str(), one.memory.prompt.as_str()))).collect()
    }

    /// Unsupervised: both parts through the mixture; the memory holds all edits of the batch.
    fn through_mixture(&self, drawn: &[Drawn], training: bool) -> Result<Scored> {
        let (networks, leaves) = self.tracked(training)?;
        let edits: Vec<&Question> = drawn.iter().map(|one| &one.outer).collect();
        let locality: Vec<&Question> = drawn.iter().flat_map(|one| &one.locality).collect();
        let (edit, scores) = self.mixture_of(&networks, drawn, &edits, false)?;
        let mut total = edit.loss.clone() * self.hparams.cedit;
        let mut negative = Vec::new();
        let mut kl = 0.0;
        let mut kept = Answers::default();
        if !locality.is_empty() {
            let (loc, scores) = self.mixture_of(&networks, drawn, &locality, true)?;
            kl = number(&loc.loss)?;
            total = total + loc.loss * self.hparams.cloc;
            (negative, kept) = (scores, loc.answers);
        }
        let counts = ScopeCounts::of(&scores, &negative, self.hparams.threshold_or_half());
        let mut report = self.report(&edit.answers, kl);
        counts.put(&mut report);
        let routed = edit.answers.exact.iter().filter(|exact| **exact).count();
        report.put_mean("edit/routed", routed as f64 / drawn.len().max(1) as f64, drawn.len());
        report.put_mean("loc/acc", kept.accuracy, kept.tokens.max(1));
        if training {
            let mut gradients = BTreeMap::new();
            collect(&leaves, "", &total.backward(), &mut gradients);
            report.gradients = gradients;
        }
        let scores = scored(&scores, &negative);
        Ok((report, scores))
    }

    /// The mixture's loss on questions, and each question's log-score for the edit it is nearest to.
    fn mixture_of(&self, networks: &Networks, drawn: &[Drawn], questions: &[&Question], keep: bool) -> Result<(MixtureLoss, Vec<f32>)> {
        let memories: Vec<&str> = drawn.iter().map(|one| one.memory.prompt.as_str()).collect();
        let pairs = questions.iter().flat_map(|question| memories.iter().map(|memory| (question.prompt.as_str(), *memory)));
        let scores = networks.classifier.log_scores(&pairs.collect::<Vec<_>>())?;
        let values = tensor_values(&if scores.is_autodiff() { scores.clone().inner() } else { scores.clone() })?;
        let nearest =
            |row: &[f32]| row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (at, s)| if *s > best.1 { (at, *s) } else { best });
        let best: Vec<(usize, f32)> = values.chunks(memories.len().max(1)).map(nearest).collect();
        let places: Vec<usize> = best.iter().enumerate().map(|(row, (at, _))| row * memories.len() + at).collect();
        let of_best = self.base.rows_of(scores, &places);
        let (mut base_rows, mut small_rows) = (Vec::new(), Vec::new());
        for (question, (at, _)) in questions.iter().zip(&best) {
            let Question { prompt, answer } = question;
            base_rows.push(encode_with_target(&*self.base, prompt, answer)?);
            let memory = drawn.get(*at).map(|one| one.memory.context(prompt)).unwrap_or_default();
            small_rows.push(encode_with_target(&*networks.counterfactual, &memory, answer)?);
        }
        let base = Predictions::of(&*self.base, &base_rows.iter().collect::<Vec<_>>())?.plain();
        let small = Predictions::of(&*networks.counterfactual, &small_rows.iter().collect::<Vec<_>>())?;
        let loss = if keep { mixture_kl(&base, &small, of_best)? } else { mixture_nll(&base, &small, of_best)? };
        Ok((loss, best.into_iter().map(|(_, score)| score).collect()))
    }

    fn report(&self, answers: &Answers, scope: f64) -> StepReport {
        let mut report = StepReport::default();
        let total = self.hparams.cedit * answers.nll + self.hparams.cloc * scope;
        for (key, value) in [("loss/edit", answers.nll), ("loss/loc", scope), ("loss/total", total), ("loss/total_edit", total)] {
            report.put_mean(key, value, answers.exact.len().max(1));
        }
        report.put_mean("edit/acc", answers.accuracy, answers.tokens.max(1));
        report.put_mean("edit/log_prob", -answers.nll, answers.tokens.max(1));
        let exact = answers.exact.iter().filter(|exact| **exact).count();
        report.put_mean("edit/exact", exact as f64 / answers.exact.len().max(1) as f64, answers.exact.len().max(1));
        report
    }
}

/// What a step reports, and the scores it found, with whether the query is in scope.
type Scored = (StepReport, Vec<(f64, bool)>);

fn scored(positive: &[f32], negative: &[f32]) -> Vec<(f64, bool)> {
    let of = |scores: &[f32], is_in| scores.iter().map(|log| (f64::from(*log).exp(), is_in)).collect::<Vec<_>>();
    [of(positive, true), of(negative, false)].concat()
}

/// The row of an edit behind its own memory.
fn behind_memory(model: &dyn Predictor, one: &Drawn, ended: bool) -> Result<TargetTokens> {
    let tokens = encode_with_target(model, &one.memory.context(&one.outer.prompt), &one.outer.answer).map_err(|error| Error::Request {
        case_id: one.memory.case_id,
        message: format!("{:?}: {error}", join_target(&one.memory.prompt, &one.memory.target)),
    })?;
    Ok(match model.tokenizer().eos().first() {
        Some(end) if ended => tokens.ending_in(*end),
        _ => tokens,
    })
}

/// The gradients of the leaves whose names begin with `prefix`.
fn collect(leaves: &[(String, Tensor<2>)], prefix: &str, gradients: &Gradients, into: &mut BTreeMap<String, Tensor<2>>) {
    for (name, leaf) in leaves.iter().filter(|(name, _)| name.starts_with(prefix)) {
        if let Some(gradient) = leaf.grad(gradients) {
            into.insert(name.clone(), gradient);
        }
    }
}

/// The classifier's parameters in training: all of them, or the head and the last blocks.
fn trained_of_classifier(networks: &Networks, hparams: &SeracHparams) -> Vec<String> {
    let classifier = &networks.classifier;
    let mut names = classifier.parameter_names();
    if let Some(last) = hparams.freeze {
        let first = classifier.encoder().n_layers().saturating_sub(last);
        names.retain(|name| classifier.is_head(name) || classifier.layer_of(name).is_some_and(|layer| layer >= first));
    }
    names
}

/// The counterfactual model's parameters in training: all of them, or those from block `below` of the decoder on.
fn trained_of_counterfactual(model: &dyn LanguageModel, below: usize) -> Result<Vec<String>> {
    if below > 0 {
        model.spec().check_layer(below)?;
    }
    let is_trained = |name: &ParamName| -> Result<bool> {
        let parameter = model.spec().parameter(name)?;
        Ok(below == 0 || (parameter.stack == Stack::Decoder && parameter.layer.is_some_and(|layer| layer >= below)))
    };
    let mut names = Vec::new();
    for name in model.parameter_names() {
        if is_trained(&name)? {
            names.push(format!("{REPLACEMENT}{name}"));
        }
    }
    Ok(names)
}

impl MetaLearner for SeracLearner {
    fn name(&self) -> &str {
        SeracHparams::METHOD
    }

    fn identity(&self) -> Result<Value> {
        let mut identity = serde_json::to_value(&self.hparams).map_err(Error::other)?;
        if let Value::Object(settings) = &mut identity {
            settings.retain(|key, _| !LOOP_KEYS.contains(&key.as_str()));
            settings.insert("training data".to_owned(), self.train.fingerprint()?.into());
            settings.insert("validation data".to_owned(), self.val.fingerprint()?.into());
            settings.insert("base model".to_owned(), sampled_fingerprint(&*self.base)?.into());
        }
        Ok(identity)
    }

    fn examples(&self, split: Split) -> usize {
        match split {
            Split::Train => self.train.len(),
            Split::Val => self.val.len(),
        }
    }

    fn metric_keys(&self) -> Vec<String> {
        let keys =
            ["loss/edit", "loss/loc", "loss/total", "loss/total_edit", "edit/acc", "edit/log_prob", "edit/exact", "edit/routed", "loc/acc"];
        keys.iter().chain(ScopeCounts::KEYS).map(|key| (*key).to_owned()).collect()
    }

    fn groups(&self) -> Vec<ParameterGroup> {
        let SeracHparams { lr, weight_decay, .. } = self.hparams;
        let group =
            |name: &str, parameters: &[String]| ParameterGroup { name: name.into(), parameters: parameters.to_vec(), lr, weight_decay };
        let groups = [group("classifier", &self.classifier), group("counterfactual", &self.replacement)];
        groups.into_iter().filter(|group| !group.parameters.is_empty()).collect()
    }

    fn parameter(&self, name: &str) -> Result<Tensor<2>> {
        self.networks.weight(name)
    }

    fn set_parameter(&mut self, name: &str, value: Tensor<2>) -> Result<()> {
        self.networks.set_weight(name, value)
    }

    fn step(&mut self, batch: &Batch, training: bool) -> Result<StepReport> {
        let drawn = match batch.split {
            Split::Train => self.train.draw(&batch.examples, &self.hparams, &mut batch.rng()),
            Split::Val => self.val.all_of(&batch.examples, &mut batch.rng()),
        };
        if drawn.is_empty() {
            return Err(Error::Batch("a batch without records".into()));
        }
        let (report, scores) =
            if self.hparams.supervised { self.supervised(&drawn, training)? } else { self.through_mixture(&drawn, training)? };
        if batch.split == Split::Val {
            if batch.iteration == 1 {
                self.validated.clear();
            }
            self.validated.extend(scores);
        }
        Ok(report)
    }

    fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.networks.state()
    }

    fn load_state(&mut self, state: &BTreeMap<String, HostTensor>) -> Result<()> {
        self.networks.load_state(state, false)
    }

    fn facts(&self) -> Result<Value> {
        let encoder = self.networks.classifier.encoder();
        let small = &self.networks.counterfactual;
        let facts = TrainedFacts {
            rules: self.networks.classifier.rules(),
            threshold: self.threshold(),
            supervised: self.hparams.supervised,
            encoder: Identity::of(encoder.name(), encoder.tokenizer()),
            counterfactual: Identity::of(&small.spec().name, small.tokenizer()),
            base: Identity::of(&self.base.spec().name, self.base.tokenizer()),
            base_weights: sampled_fingerprint(&*self.base)?,
        };
        Ok(json!(facts))
    }
}
