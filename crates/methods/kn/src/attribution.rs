//! Integrated gradients at the inputs of the MLPs' out-projections.

use burn::tensor::{Tensor, TensorData, activation};
use easyedit_core::device::is_cpu;
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{
    Capture, Error, KvCache, LanguageModel, Module, Pass, Probe, Progress, Result, Site, TokenBatch, TokenSlice, tensor_values,
};
use easyedit_kernels::target_likelihood;

/// How much every neuron adds to an answer's probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    /// By layer and index: `[n_layers][d_mlp]`, in probability.
    pub scores: Vec<Vec<f64>>,
    /// Probability of each of the answer's tokens, with those before it given.
    pub probabilities: Vec<f64>,
}

/// Attributes the probability of an answer to the neurons of every layer, each at the token that predicts; over the tokens of an answer, each
/// with those before it given, attributions are averaged.
///
/// A layer's scaled activations differ from the model's own only in that layer and at that token. So the tokens before are run once, the
/// layers below never again, and scaled activations join a batch in their layer; as many of them are run at once as fit into memory.
///
/// # Errors
///
/// If `steps` is 0, the model does not show its activations, or numbers stop being finite.
///
/// # Source
///
/// Dai et al. 2022, equation 3 and its approximation: Attr(w) = w/m Σₖ ∂P(k/m · w)/∂w, for k from 1 to m = `steps`.
pub fn attribute(model: &dyn LanguageModel, tokens: &TargetTokens, steps: usize, progress: &dyn Progress) -> Result<Attribution> {
    let spec = model.spec();
    if steps == 0 {
        return Err(Error::Batch("an integral over no steps was asked for; at least 1 is needed".into()));
    }
    let traversal = Traversal::of(model, tokens)?;
    let mut scores = vec![vec![0.0; spec.d_mlp]; spec.n_layers];
    let mut probabilities = Vec::new();
    let count = tokens.target().len();
    progress.begin("attributing", Some((count * steps * spec.n_layers) as u64));
    let outcome = tokens.predicting().zip(tokens.target()).try_for_each(|(token, answer)| -> Result<()> {
        let own = tokens.row.suffix(token).prefix(1);
        let place = Place { traversal: &traversal, token, own, answer: *answer };
        for group in groups(model, token + 1 + tokens.source.len(), steps) {
            for (layer, slopes) in place.slopes(&group, steps)? {
                let key = traversal.key(layer, token)?;
                for ((score, slope), activation) in scores[layer].iter_mut().zip(slopes).zip(key) {
                    *score += f64::from(activation) * slope / (steps * count) as f64;
                }
            }
            progress.step(group.iter().map(|part| part.scales.len() as u64).sum())?;
        }
        probabilities.push(place.probability()?);
        Ok(())
    });
    progress.end();
    outcome?;
    if scores.iter().flatten().any(|score| !score.is_finite()) {
        return Err(Error::NotFinite("the attributions are not finite; the model's weights are damaged".into()));
    }
    Ok(Attribution { scores, probabilities })
}

/// Scaled activations of one layer that are run together with others.
struct Part {
    layer: usize,
    /// Numbers k of the factors k/m.
    scales: Vec<usize>,
}

/// All layers' scaled activations in groups that fit into memory; within a group, layers rise.
fn groups(model: &dyn LanguageModel, tokens: usize, steps: usize) -> Vec<Vec<Part>> {
    /// Bytes kept for the way back; on a CPU more would only take longer to be had.
    const ON_CPU: usize = 384 << 20;
    const ON_GPU: usize = 4 << 30;
    let spec = model.spec();
    let room = (if is_cpu(&model.device()) { ON_CPU } else { ON_GPU }) / 4;
    let per_layer = 12 * spec.d_model + 6 * spec.d_mlp + 2 * tokens * spec.d_model;
    // Keys and values of an encoder's output are taken along for all layers.
    let whole = if spec.encoder.is_some() { 2 * tokens * spec.d_model * spec.n_layers } else { 0 };
    let mut groups: Vec<Vec<Part>> = Vec::new();
    let mut left = 0;
    for layer in (0..spec.n_layers).rev() {
        let cost = (per_layer * (spec.n_layers - layer) + 4 * spec.vocab_size + whole).max(1);
        for scale in 1..=steps {
            if left < cost || groups.is_empty() {
                left = room.max(cost);
                groups.push(Vec::new());
            }
            left -= cost;
            let Some(group) = groups.last_mut() else { continue };
            match group.last_mut() {
                Some(part) if part.layer == layer => part.scales.push(scale),
                _ => group.push(Part { layer, scales: vec![scale] }),
            }
        }
    }
    groups.iter_mut().for_each(|group| group.reverse());
    groups
}

/// A prompt with its answer on its way through all layers, run once.
struct Traversal<'a> {
    model: &'a dyn LanguageModel,
    /// MLP keys and block inputs of all tokens by layer.
    capture: Capture,
    cache: KvCache,
    end: Tensor<2>,
}

impl<'a> Traversal<'a> {
    fn of(model: &'a dyn LanguageModel, tokens: &TargetTokens) -> Result<Self> {
        let batch = TokenBatch::new(&[tokens.input()])?;
        let mut pass = model.start(&[&tokens.source], batch)?.with_prompts(vec![tokens.start])?.keeping();
        let sites = |layer| [Module::MlpKey, Module::BlockInput].map(|module| Site::new(layer, module));
        // The last block's output is wanted, too, and comes after all of them.
        let mut capture = Capture::new((0..model.spec().n_layers).flat_map(sites));
        let end = model.hidden(&mut pass, &mut capture)?;
        Ok(Self { model, capture, cache: pass.into_cache()?, end })
    }

    /// The activations of one token: `[1, width]`.
    fn at(&self, layer: usize, module: Module, token: usize) -> Result<Tensor<2>> {
        let site = Site::new(layer, module);
        let seen = self.capture.get(site).ok_or_else(|| Error::Batch(format!("the model does not show its activations at {site}")))?;
        Ok(seen.clone().narrow(0, token, 1))
    }

    fn key(&self, layer: usize, token: usize) -> Result<Vec<f32>> {
        tensor_values(&self.at(layer, Module::MlpKey, token)?)
    }
}

/// A token that predicts one of the answer's.
struct Place<'a> {
    traversal: &'a Traversal<'a>,
    /// Its number in its sequence.
    token: usize,
    /// The token itself.
    own: TokenSlice<'a>,
    /// The token that it is to predict.
    answer: u32,
}

/// Puts scaled activations in the place of the last rows' own.
struct Replace {
    site: Site,
    scaled: Option<Tensor<2>>,
}

impl Probe for Replace {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        match self.scaled.take() {
            Some(scaled) if site == self.site => {
                let before = activations.dims()[0] - scaled.dims()[0];
                if before == 0 { scaled } else { Tensor::cat(vec![activations.narrow(0, 0, before), scaled], 0) }
            }
            other => {
                self.scaled = other;
                activations
            }
        }
    }
}

impl Place<'_> {
    /// The model's own probability of the answer.
    fn probability(&self) -> Result<f64> {
        let logits = self.traversal.model.logits(self.traversal.end.clone(), &[self.token])?;
        let loss = target_likelihood(&activation::log_softmax(logits, 1), &[self.answer], &[1.0])?;
        Ok(loss.log_probs.iter().map(|p| f64::from(p.exp())).sum())
    }

    /// For each layer of the group, the sum over its scaled activations of the probability's derivative: `[d_mlp]`.
    fn slopes(&self, group: &[Part], steps: usize) -> Result<Vec<(usize, Vec<f64>)>> {
        let model = self.traversal.model;
        let (device, layers) = (model.device(), model.spec().n_layers);
        let mut hidden: Option<Tensor<2>> = None;
        let mut all_scaled = Vec::with_capacity(group.len());
        for layer in group.first().map_or(layers, |part| part.layer)..layers {
            let mut replace = Replace { site: Site::new(layer, Module::MlpKey), scaled: None };
            if let Some(part) = group.iter().find(|part| part.layer == layer) {
                let count = part.scales.len();
                let input = Tensor::from_inner(self.traversal.at(layer, Module::BlockInput, self.token)?.repeat_dim(0, count));
                hidden = Some(match hidden.take() {
                    Some(before) => Tensor::cat(vec![before, input], 0),
                    None => input,
                });
                let scales = part.scales.iter().map(|scale| *scale as f32 / steps as f32).collect::<Vec<f32>>();
                let scales = Tensor::<2>::from_data(TensorData::new(scales, [count, 1]), &device);
                let scaled = scales.matmul(self.traversal.at(layer, Module::MlpKey, self.token)?);
                let scaled = Tensor::from_inner(scaled).require_grad();
                all_scaled.push((layer, scaled.clone()));
                replace.scaled = Some(scaled);
            }
            let Some(entering) = hidden.take() else { continue };
            let rows = entering.dims()[0];
            let cache = self.traversal.cache.before(self.token, layer).select_rows(&vec![0; rows], &device)?;
            let mut pass = Pass::after(TokenBatch::new(&vec![self.own; rows])?, cache, &device)?;
            hidden = Some(model.run_layers(entering, layer..layer + 1, &mut pass, &mut replace)?);
        }
        let hidden = hidden.ok_or_else(|| Error::Batch("no activations were scaled".into()))?;
        let rows = hidden.dims()[0];
        let logits = model.logits(hidden, &(0..rows).collect::<Vec<usize>>())?;
        let loss = target_likelihood(&activation::log_softmax(logits.clone().inner(), 1), &vec![self.answer; rows], &vec![1.0; rows])?;
        // dP = -P d(-log P)
        let factors: Vec<f32> = loss.log_probs.iter().map(|p| -p.exp()).collect();
        let slope = loss.slope * Tensor::<2>::from_data(TensorData::new(factors, [rows, 1]), &device);
        let gradients = (logits * Tensor::from_inner(slope)).sum().backward();
        let of_layer = |(layer, scaled): (usize, Tensor<2>)| {
            let gradient = scaled.grad(&gradients).ok_or_else(|| Error::Batch(format!("layer {layer} has no influence on the answer")))?;
            Ok((layer, tensor_values(&gradient.sum_dim(0))?.into_iter().map(f64::from).collect()))
        };
        all_scaled.into_iter().map(of_layer).collect()
    }
}
