use burn::tensor::{DType, Tensor, TensorData, activation};
use easyedit_core::{Error, LanguageModel, Module, Probe, Result, Site, tensor_values};

use super::search::Search;
use crate::fact_states::FactStates;
use crate::{Contexts, ValueConfig, target_likelihood};

/// A context among all that are under way.
#[derive(Clone, Copy)]
pub(crate) struct RowOf {
    /// Its search, by its place among those under way.
    pub(crate) search: usize,
    /// Its number among the contexts of its request.
    pub(crate) context: usize,
}

/// A group of contexts, of one request or of many: where the loss is read in them, and with which weights.
pub(crate) struct Share {
    model: Box<dyn LanguageModel>,
    states: FactStates,
    layer: usize,
    /// The contexts, by their number among all under way.
    rows: Vec<usize>,
    /// Per context, the place of its search.
    searches: Vec<usize>,
    /// Positions of the fact tokens.
    facts: Vec<usize>,
    /// Positions whose logits are read; those of kept distributions are the last.
    positions: Vec<usize>,
    /// For each predicting position: its context, the id to predict, and its weight in the likelihood.
    predictions: Vec<(usize, u32, f32)>,
    /// The searches whose kept distribution is read here.
    keeping: Vec<usize>,
    /// Those distributions before the first step, as log-probabilities: `[1, vocabulary]` each.
    kept: Vec<Option<Tensor<2>>>,
}

/// Something per context of a group, with the context's number among all.
pub(crate) type PerContext<T> = Vec<(usize, T)>;

/// A part of the loss, and its derivative by the logits it was read from, some rows per tensor.
type WithSlopes<T> = (Vec<T>, Vec<Tensor<2>>);

/// A pass of a group, kept for the way back.
pub(crate) struct Forward {
    /// Per context, its part of the mean negative log-likelihood, and whether the target is predicted.
    pub(crate) nll: PerContext<(f64, bool)>,
    /// Per search, the divergence of its kept distribution.
    pub(crate) kl: Vec<(usize, f64)>,
    /// What was added, one per change: `[tokens, d_model]`.
    added: Vec<Tensor<2>>,
    logits: Tensor<2>,
    /// Derivative of the unweighted likelihood and divergence by the logits.
    slope: Tensor<2>,
}

/// Adds to activations of one layer.
struct AddAt<'a> {
    layer: usize,
    added: &'a [(Module, Tensor<2>)],
}

impl Probe for AddAt<'_> {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        match self.added.iter().find(|(module, _)| site == Site::new(self.layer, *module)) {
            Some((_, added)) => activations + added.clone(),
            None => activations,
        }
    }
}

impl Share {
    /// The group of the contexts `rows` of `states`; `row_of` and `contexts` tell what each is.
    pub(crate) fn new(
        model: &dyn LanguageModel,
        states: &FactStates,
        layer: usize,
        rows: &[usize],
        row_of: &[RowOf],
        contexts: &[&Contexts],
    ) -> Result<Self> {
        let states = states.select(model, rows)?;
        let facts: Vec<usize> = (0..rows.len()).map(|row| states.fact_position(row)).collect();
        let searches: Vec<usize> = rows.iter().map(|row| row_of[*row].search).collect();
        let (mut positions, mut predictions, mut keeping, mut kept_at) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, row) in rows.iter().enumerate() {
            let RowOf { search, context } = row_of[*row];
            let targets = &contexts[search].targets;
            let predicting = targets.predictions.iter().filter(|p| !p.is_empty()).count();
            let of_row = targets.predictions.get(context).map(Vec::as_slice).unwrap_or_default();
            for (token, id) in of_row {
                let position = states.position(index, *token).ok_or_else(|| {
                    Error::Batch(format!("token {token} of context {context} predicts the target but comes before the fact token"))
                })?;
                positions.push(position);
                predictions.push((*row, *id, 1.0 / (predicting * of_row.len()) as f32));
            }
            if targets.keep == Some(context) {
                keeping.push(search);
                kept_at.push(facts[index]);
            }
        }
        positions.extend(kept_at);
        let kept = vec![None; keeping.len()];
        Ok(Self { model: model.boxed_clone(), states, layer, rows: rows.to_vec(), searches, facts, positions, predictions, keeping, kept })
    }

    /// The kept distributions seen so far, with their searches.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (usize, Tensor<2>)> {
        self.keeping.iter().zip(&self.kept).filter_map(|(search, kept)| Some((*search, kept.clone()?)))
    }

    /// Makes known the distributions that were kept by groups before; `of` gives a search's.
    pub(crate) fn remember(&mut self, of: impl Fn(usize) -> Option<Tensor<2>>) {
        self.kept = self.keeping.iter().map(|search| of(*search)).collect();
    }

    /// Runs the layers from the edit on with the changes added at the fact tokens, and the loss.
    pub(crate) fn forward(&mut self, searches: &[Search], config: &ValueConfig) -> Result<Forward> {
        let changes: Vec<Vec<Vec<f32>>> = searches.iter().map(Search::deltas).collect();
        let parts = changes.first().map_or(0, Vec::len);
        let added: Vec<Tensor<2>> = (0..parts).map(|part| self.at_facts(|search| &changes[search][part])).collect();
        let mut pass = self.states.pass();
        let layers = self.states.next_layer()..self.model.spec().n_layers;
        let hidden = Tensor::from_inner(self.states.hidden().clone());
        let end = match config.site.is_inside_layer() {
            true => {
                let added: Vec<(Module, Tensor<2>)> =
                    [Module::MlpOutput, Module::AttentionOutput].into_iter().zip(added.iter().cloned()).collect();
                self.model.run_layers(hidden, layers, &mut pass, &mut AddAt { layer: self.layer, added: &added })?
            }
            false => {
                let start = added.iter().fold(hidden, |hidden, added| hidden + added.clone());
                self.model.run_layers(start, layers, &mut pass, &mut ())?
            }
        };
        let logits = self.model.logits(end, &self.positions)?;
        let log_probs = activation::log_softmax(logits.clone().inner(), 1);
        let (nll, mut slopes) = self.likelihood(&log_probs)?;
        let (kl, kept_slopes) = self.divergence(&log_probs, config.kl_factor)?;
        slopes.extend(kept_slopes);
        if slopes.is_empty() {
            return Err(Error::Batch("a group of contexts predicts nothing".into()));
        }
        Ok(Forward { nll, kl, added, logits, slope: Tensor::cat(slopes, 0) })
    }

    /// Per context, the gradients of the changes at its fact token, one behind the other: `[changes · d_model]`. `nll_factor` gives the
    /// weight of a search's likelihood; a search that needs no gradient has none.
    pub(crate) fn backward(&self, pass: &Forward, nll_factor: &[Option<f64>]) -> Result<PerContext<Vec<f32>>> {
        let mut slope = Tensor::from_inner(pass.slope.clone());
        let factors = self.searches_of_positions().map(|(search, predicts)| match nll_factor[search] {
            Some(factor) if predicts => factor as f32,
            Some(_) => 1.0,
            None => 0.0,
        });
        let factors: Vec<f32> = factors.collect();
        if factors.iter().any(|factor| *factor != 1.0) {
            let [count, device] = [factors.len(), 1];
            slope = slope * Tensor::from_inner(Tensor::<2>::from_data(TensorData::new(factors, [count, device]), &self.model.device()));
        }
        let gradients = (pass.logits.clone() * slope).sum().backward();
        let mut found: PerContext<Vec<f32>> = self.rows.iter().map(|row| (*row, Vec::new())).collect();
        for added in &pass.added {
            let gradient = added.grad(&gradients).ok_or_else(|| Error::Batch("the fact token has no influence on the targets".into()))?;
            let [_, width] = gradient.dims();
            let at_facts = tensor_values(&self.model.rows_of(gradient, &self.facts))?;
            for ((_, found), gradient) in found.iter_mut().zip(at_facts.chunks_exact(width)) {
                found.extend_from_slice(gradient);
            }
        }
        Ok(found)
    }

    /// A tracked tensor that holds `value(search)` at the search's fact tokens, and 0 elsewhere: `[tokens, d_model]`.
    fn at_facts<'a>(&self, value: impl Fn(usize) -> &'a Vec<f32>) -> Tensor<2> {
        let [tokens, width] = self.states.hidden().dims();
        let mut values = vec![0f32; tokens * width];
        for (fact, search) in self.facts.iter().zip(&self.searches) {
            values[fact * width..(fact + 1) * width].copy_from_slice(value(*search));
        }
        let values = Tensor::<2>::from_data(TensorData::new(values, [tokens, width]), &self.model.device());
        Tensor::from_inner(values).require_grad()
    }

    /// For each position whose logits are read, its search, and whether it predicts.
    fn searches_of_positions(&self) -> impl Iterator<Item = (usize, bool)> {
        let search_of = |row: &usize| self.rows.iter().position(|r| r == row).map_or(0, |index| self.searches[index]);
        let predicting = self.predictions.iter().map(move |(row, ..)| (search_of(row), true));
        predicting.chain(self.keeping.iter().map(|search| (*search, false)))
    }

    /// Negative log-likelihood per context, and its derivative by the predicting positions' logits.
    fn likelihood(&self, log_probs: &Tensor<2>) -> Result<WithSlopes<(usize, (f64, bool))>> {
        let count = self.predictions.len();
        if count == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        let ids: Vec<u32> = self.predictions.iter().map(|(_, id, _)| *id).collect();
        let weights: Vec<f32> = self.predictions.iter().map(|(.., weight)| *weight).collect();
        let loss = target_likelihood(&log_probs.clone().narrow(0, 0, count), &ids, &weights)?;
        let mut nll: PerContext<(f64, bool)> = Vec::new();
        for (((row, _, weight), log_prob), is_best) in self.predictions.iter().zip(loss.log_probs).zip(loss.predicted) {
            let part = -f64::from(log_prob) * f64::from(*weight);
            match nll.last_mut() {
                Some((last, (sum, most_probable))) if last == row => {
                    *sum += part;
                    *most_probable &= is_best;
                }
                _ => nll.push((*row, (part, is_best))),
            }
        }
        Ok((nll, vec![loss.slope]))
    }

    /// Divergence of each kept distribution from what it was in the first step, and the weighted derivative by its logits.
    fn divergence(&mut self, log_probs: &Tensor<2>, kl_factor: f64) -> Result<WithSlopes<(usize, f64)>> {
        let (mut found, mut slopes) = (Vec::new(), Vec::new());
        for (index, (search, kept)) in self.keeping.iter().zip(&mut self.kept).enumerate() {
            let now = log_probs.clone().narrow(0, self.predictions.len() + index, 1);
            let before = kept.get_or_insert_with(|| now.clone()).clone();
            let ratio = now.clone() - before;
            let probs = now.exp();
            let divergence = f64::from(scalar(&(probs.clone() * ratio.clone()).sum())?);
            found.push((*search, divergence));
            slopes.push(probs * (ratio - divergence) * kl_factor);
        }
        Ok((found, slopes))
    }
}

fn scalar(tensor: &Tensor<1>) -> Result<f32> {
    tensor_values(&tensor.clone().cast(DType::F32))?
        .first()
        .copied()
        .ok_or_else(|| Error::Batch("the device gave back an empty tensor".into()))
}
