//! A request's prompt and answer, run up to where a value is tried.

use burn::tensor::{Tensor, TensorData};
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{Capture, Error, LanguageModel, Module, Pass, Probe, Result, Site, Stack, TokenBatch, TokenSlice, tensor_values};

use crate::codebook::{Replacement, Rules};

/// A request up to the MLP whose output a value stands in for.
pub(crate) struct Start {
    rules: Rules,
    state: State,
    /// Positions that predict the answer's tokens.
    predicting: Vec<usize>,
    /// Key of the MLP at the prompt's last token: `[d_mlp]`.
    pub(crate) key: Vec<f32>,
    /// Its output there: `[d_model]`.
    pub(crate) output: Vec<f32>,
}

enum State {
    /// Everything before the layer is run once.
    InDecoder {
        pass: Box<Pass>,
        /// Behind the layer, without the MLP's output where the value will stand: `[tokens, d_model]`.
        hidden: Tensor<2>,
        /// 1 where the value stands: `[tokens, 1]`.
        places: Tensor<2>,
    },
    /// The prompt is read anew under every value.
    InEncoder {
        source: TokenBatch,
        answer: TokenBatch,
        /// As above, of the source's tokens.
        places: Tensor<2>,
    },
}

impl Start {
    /// # Errors
    ///
    /// If the model cannot be run on the tokens, or does not show the MLP's activations.
    pub(crate) fn new(model: &dyn LanguageModel, tokens: &TargetTokens, rules: Rules) -> Result<Self> {
        match rules.stack {
            Stack::Encoder => Self::in_encoder(model, tokens, rules),
            _ => Self::in_decoder(model, tokens, rules),
        }
    }

    fn in_decoder(model: &dyn LanguageModel, tokens: &TargetTokens, rules: Rules) -> Result<Self> {
        let device = model.device();
        let (input, end) = (tokens.input(), tokens.start - 1);
        // A value at the last token alone cannot reach those before it: they are run once, through all layers.
        let prefix = if rules.replacement == Replacement::ReplaceLast { end } else { 0 };
        let begin = |row: TokenSlice<'_>| -> Result<Pass> {
            model.start(&[&tokens.source], TokenBatch::new(&[row])?)?.with_prompts(vec![tokens.start])
        };
        let mut pass = match prefix {
            0 => begin(input)?,
            _ => {
                let mut before = begin(input.prefix(prefix))?.keeping();
                model.hidden(&mut before, &mut ())?;
                Pass::after(TokenBatch::new(&[input.suffix(prefix)])?, before.into_cache()?, &device)?
            }
        };
        let mut capture = Capture::new(sites(rules));
        let hidden = model.embed(&pass)?;
        let hidden = model.run_layers(hidden, 0..rules.layer + 1, &mut pass, &mut capture)?;
        let (keys, outputs) = captured(&mut capture, rules)?;
        let (last, count) = (end - prefix, input.len() - prefix);
        let places = places(model, count, 0..=last);
        Ok(Self {
            rules,
            predicting: tokens.predicting().map(|token| token - prefix).collect(),
            key: row(model, keys, last)?,
            output: row(model, outputs.clone(), last)?,
            state: State::InDecoder { pass: Box::new(pass), hidden: hidden - outputs * places.clone(), places },
        })
    }

    fn in_encoder(model: &dyn LanguageModel, tokens: &TargetTokens, rules: Rules) -> Result<Self> {
        let source = TokenBatch::new(&[&tokens.source])?;
        let mut capture = Capture::new(sites(rules));
        encoder_of(model)?.encode(&source, &mut capture)?;
        let (keys, outputs) = captured(&mut capture, rules)?;
        let last = source.tokens() - 1;
        let first = if rules.replacement == Replacement::ReplaceLast { last } else { 0 };
        Ok(Self {
            rules,
            predicting: tokens.predicting().collect(),
            key: row(model, keys, last)?,
            output: row(model, outputs, last)?,
            state: State::InEncoder {
                places: places(model, source.tokens(), first..=last),
                source,
                answer: TokenBatch::new(&[tokens.input()])?,
            },
        })
    }

    /// Logits at the positions that predict the answer, `[answer tokens, vocab_size]`, under `value: [1, d_model]`, which may be tracked.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub(crate) fn logits(&self, model: &dyn LanguageModel, value: Tensor<2>) -> Result<Tensor<2>> {
        let n_layers = model.spec().n_layers;
        let is_tracked = value.is_autodiff();
        let end = match &self.state {
            State::InDecoder { pass, hidden, places } => {
                let hidden = constant(hidden.clone(), is_tracked) + constant(places.clone(), is_tracked).matmul(value);
                model.run_layers(hidden, self.rules.layer + 1..n_layers, &mut pass.clone(), &mut ())?
            }
            State::InEncoder { source, answer, places } => {
                let encoded = encoder_of(model)?.encode(source, &mut PutIn { rules: self.rules, places, value })?;
                let mut pass = Pass::new(answer.clone(), &model.device()).reading(encoded)?;
                let hidden = constant(model.embed(&pass)?, is_tracked);
                model.run_layers(hidden, 0..n_layers, &mut pass, &mut ())?
            }
        };
        model.logits(end, &self.predicting)
    }
}

/// Puts a value in for the output of an encoder's MLP.
struct PutIn<'a> {
    rules: Rules,
    places: &'a Tensor<2>,
    value: Tensor<2>,
}

impl Probe for PutIn<'_> {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        let is_tracked = self.value.is_autodiff();
        if site == Site::in_stack(self.rules.stack, 0, Module::Embedding) {
            return constant(activations, is_tracked);
        }
        if site != self.rules.site(Module::MlpOutput) {
            return activations;
        }
        let places = constant(self.places.clone(), is_tracked);
        activations.clone() - activations * places.clone() + places.matmul(self.value.clone())
    }
}

fn encoder_of(model: &dyn LanguageModel) -> Result<&dyn easyedit_core::Encoder> {
    model.encoder().ok_or_else(|| Error::Batch(format!("{} is a decoder-only model and reads no sources", model.spec().name)))
}

fn sites(rules: Rules) -> [Site; 2] {
    [Module::MlpKey, Module::MlpOutput].map(|module| rules.site(module))
}

/// Keys and outputs of the MLP.
fn captured(capture: &mut Capture, rules: Rules) -> Result<(Tensor<2>, Tensor<2>)> {
    match sites(rules).map(|site| capture.take(site)) {
        [Some(keys), Some(outputs)] => Ok((keys, outputs)),
        _ => Err(Error::Batch(format!("the model does not show the activations of layer {}'s MLP", rules.layer))),
    }
}

fn row(model: &dyn LanguageModel, activations: Tensor<2>, row: usize) -> Result<Vec<f32>> {
    tensor_values(&model.rows_of(activations, &[row]))
}

/// 1 at the tokens `at`, 0 at the others: `[tokens, 1]`.
fn places(model: &dyn LanguageModel, tokens: usize, at: std::ops::RangeInclusive<usize>) -> Tensor<2> {
    let places: Vec<f32> = (0..tokens).map(|token| if at.contains(&token) { 1.0 } else { 0.0 }).collect();
    Tensor::from_data(TensorData::new(places, [tokens, 1]), &model.device())
}

/// A tensor in the same graph as tracked ones, without a gradient of its own.
fn constant(tensor: Tensor<2>, in_graph: bool) -> Tensor<2> {
    if in_graph { Tensor::from_inner(tensor) } else { tensor }
}
