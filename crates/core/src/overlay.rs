use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use serde_json::Value;

use crate::tokens::TargetTokens;
use crate::{
    Edit, Encoder, EncoderOutput, Error, Fingerprint, Generation, GenerationConfig, LanguageModel, Matrix, ModelSpec, ParamName, Parameter,
    Pass, Predictor, Probe, Progress, Result, Site, TargetScore, TokenBatch, TokenSlice, Tokenizer, white_box,
};

/// What an [`Edit`] lays over a model instead of changing its weights, as data: a memory, texts, places to change. The method that made it
/// [lays it over](crate::EditMethod::lay_over) a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// Everything that is no tensor.
    pub data: Value,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Matrix>,
}

impl Overlay {
    /// The tensor called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] naming it, if it is missing, has another shape than `shape`, or a number in it is not finite.
    pub fn tensor(&self, name: &str, shape: [usize; 2]) -> Result<&Matrix> {
        let matrix = self.tensors.get(name).ok_or_else(|| Error::tensor(name, "is missing from the edit's overlay"))?;
        if matrix.shape() != shape {
            return Err(Error::tensor(name, format!("has shape {:?} in the edit's overlay instead of {shape:?}", matrix.shape())));
        }
        if matrix.values().iter().any(|value| !value.is_finite()) {
            return Err(Error::NotFinite(format!("tensor {name}: the edit's overlay holds NaN or infinity")));
        }
        Ok(matrix)
    }
}

/// How a model behaves under an [`Overlay`]: what is different in its forward pass, and in the prompts it reads.
pub trait ForwardChange: fmt::Debug + Send + Sync {
    /// What acts on the activations of one run over layers; `None` if nothing does. It acts before the probe of the run, which so sees
    /// what the model goes on with, and it has no say in when the run ends.
    fn probe(&self, _pass: &Pass) -> Option<Box<dyn Probe + '_>> {
        None
    }

    /// What acts on the activations of the encoder of an encoder-decoder while it reads `sources`; its indices and masks belong on `device`.
    /// `None` if nothing does.
    fn encoder_probe(&self, _sources: &TokenBatch, _device: &Device) -> Option<Box<dyn Probe + '_>> {
        None
    }

    /// What the model reads in place of `prompt`.
    fn prompt_text<'a>(&self, prompt: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(prompt)
    }

    /// What answers in the model's place, where the overlay decides by the prompt who answers. `None` if the model's own layers do.
    fn predictor(&self) -> Option<&dyn Predictor> {
        None
    }
}

/// What lies over a model, and the model beneath.
#[derive(Clone, Copy)]
pub struct Overlaid<'a> {
    /// Name of the method that laid it there.
    pub method: &'a str,
    /// The overlay.
    pub overlay: &'a Overlay,
    /// The model without it; others may lie over that.
    pub beneath: &'a dyn LanguageModel,
}

/// A model under an [`Overlay`]; it is a [`LanguageModel`], so that everything which can be asked of a model, another overlay included, can
/// be asked of it. Weights are those of the model beneath.
#[derive(Clone)]
pub struct EditedModel {
    beneath: Box<dyn LanguageModel>,
    method: Arc<str>,
    overlay: Arc<Overlay>,
    change: Arc<dyn ForwardChange>,
}

impl fmt::Debug for EditedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.beneath.spec().name;
        f.debug_struct("EditedModel").field("beneath", name).field("method", &self.method).field("change", &self.change).finish()
    }
}

impl EditedModel {
    /// `model` behaving as `change` says, which is what `overlay` of the method `method` stands for.
    pub fn new(model: Box<dyn LanguageModel>, method: &str, overlay: Overlay, change: impl ForwardChange + 'static) -> Self {
        Self { beneath: model, method: method.into(), overlay: Arc::new(overlay), change: Arc::new(change) }
    }
}

/// A probe that is never what a run waits for.
struct Acting<'a>(Box<dyn Probe + 'a>);

impl Probe for Acting<'_> {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        self.0.at(site, activations)
    }

    fn is_done(&self) -> bool {
        true
    }

    fn ends_at(&self, _: Site) -> bool {
        true
    }

    fn wants_linear(&self, parameter: &Parameter) -> bool {
        self.0.wants_linear(parameter)
    }

    fn linear(&mut self, parameter: &Parameter, input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
        self.0.linear(parameter, input, output)
    }
}

impl Predictor for EditedModel {
    fn name(&self) -> &str {
        self.beneath.name()
    }

    fn tokenizer(&self) -> &Tokenizer {
        self.beneath.tokenizer()
    }

    fn max_positions(&self) -> usize {
        self.beneath.max_positions()
    }

    fn decoder_start(&self) -> Option<u32> {
        self.beneath.decoder_start()
    }

    fn prompt_text<'a>(&self, prompt: &'a str) -> Cow<'a, str> {
        match self.change.prompt_text(prompt) {
            Cow::Borrowed(prompt) => self.beneath.prompt_text(prompt),
            Cow::Owned(changed) => Cow::Owned(self.beneath.prompt_text(&changed).into_owned()),
        }
    }

    fn score(&self, rows: &[&TargetTokens], progress: &dyn Progress) -> Result<Vec<TargetScore>> {
        match self.change.predictor() {
            Some(predictor) => predictor.score(rows, progress),
            None => white_box::score(self, rows, progress),
        }
    }

    fn generate(&self, prompts: &[TokenSlice<'_>], config: &GenerationConfig, progress: &dyn Progress) -> Result<Vec<Generation>> {
        match self.change.predictor() {
            Some(predictor) => predictor.generate(prompts, config, progress),
            None => white_box::generate(self, prompts, config, progress),
        }
    }
}

impl LanguageModel for EditedModel {
    fn spec(&self) -> &ModelSpec {
        self.beneath.spec()
    }

    fn device(&self) -> Device {
        self.beneath.device()
    }

    fn embed(&self, pass: &Pass) -> Result<Tensor<2>> {
        self.beneath.embed(pass)
    }

    fn run_layers(&self, hidden: Tensor<2>, layers: Range<usize>, pass: &mut Pass, probe: &mut dyn Probe) -> Result<Tensor<2>> {
        match self.change.probe(pass) {
            Some(acting) => self.beneath.run_layers(hidden, layers, pass, &mut (Acting(acting), probe)),
            None => self.beneath.run_layers(hidden, layers, pass, probe),
        }
    }

    fn logits(&self, hidden: Tensor<2>, positions: &[usize]) -> Result<Tensor<2>> {
        self.beneath.logits(hidden, positions)
    }

    fn parameter_names(&self) -> Vec<ParamName> {
        self.beneath.parameter_names()
    }

    fn weight(&self, name: &ParamName) -> Result<Tensor<2>> {
        self.beneath.weight(name)
    }

    fn fingerprint(&self, name: &ParamName) -> Result<Fingerprint> {
        self.beneath.fingerprint(name)
    }

    fn set_weight(&mut self, name: &ParamName, weight: Tensor<2>) -> Result<()> {
        self.beneath.set_weight(name, weight)
    }

    fn boxed_clone(&self) -> Box<dyn LanguageModel> {
        Box::new(self.clone())
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        self.beneath.encoder().map(|_| self as &dyn Encoder)
    }

    fn overlaid(&self) -> Option<Overlaid<'_>> {
        Some(Overlaid { method: &self.method, overlay: &self.overlay, beneath: &*self.beneath })
    }
}

impl Encoder for EditedModel {
    fn encode(&self, sources: &TokenBatch, probe: &mut dyn Probe) -> Result<EncoderOutput> {
        let Some(encoder) = self.beneath.encoder() else {
            return Err(Error::Batch(format!("{} is a decoder-only model and reads no sources", self.spec().name)));
        };
        match self.change.encoder_probe(sources, &self.device()) {
            Some(acting) => encoder.encode(sources, &mut (Acting(acting), probe)),
            None => encoder.encode(sources, probe),
        }
    }
}

impl Edit {
    /// The same edit with something to lay over the model.
    #[must_use]
    pub fn with_overlay(mut self, overlay: Overlay) -> Self {
        self.overlay = Some(overlay);
        self
    }
}
