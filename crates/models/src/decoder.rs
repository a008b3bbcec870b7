use std::ops::Range;

use burn::tensor::{Device, Tensor};
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{
    Encoder, Error, Fingerprint, Generation, GenerationConfig, LanguageModel, ModelSpec, Module, ParamName, Pass, Predictor, Probe,
    Progress, Result, Site, TargetScore, TokenBatch, TokenSlice, Tokenizer, white_box,
};

use crate::block::{Block, PositionTerms};
use crate::fingerprints::Fingerprints;
use crate::parameters::{self, Parameters};

/// What a family adds to [`Decoder`]: its blocks and tables.
pub(crate) trait Network: Parameters + Clone + Send + Sync + 'static {
    /// The encoder whose output the layers read; decoder-only families have none.
    fn encoder(&self) -> Option<&dyn Encoder> {
        None
    }

    /// The embeddings of the pass's ids, without positions: `[tokens, d_model]`. The ids are known to be inside the table.
    fn embed_ids(&self, pass: &Pass) -> Tensor<2>;

    /// Adds learned positions, where the family has them, to `embeddings: [tokens, d_model]`. Positions are known to be inside the table.
    fn add_positions(&self, embeddings: Tensor<2>, _pass: &Pass) -> Tensor<2> {
        embeddings
    }

    /// How the attention of a pass knows positions; computed once for all layers.
    fn positions(&self, pass: &Pass) -> PositionTerms;

    /// The decoder's blocks.
    fn blocks(&self) -> &[Block];

    /// Final norm and head.
    fn head(&self, hidden: Tensor<2>) -> Tensor<2>;
}

/// A language model of any family: its decoder, and through the network its encoder if it has one.
#[derive(Clone)]
pub(crate) struct Decoder<N> {
    pub(crate) spec: ModelSpec,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) device: Device,
    /// Whether positions are rows of a table, and so end where it ends.
    pub(crate) learned_positions: bool,
    pub(crate) network: N,
    fingerprints: Fingerprints,
}

impl<N: Network> Decoder<N> {
    pub(crate) fn new(spec: ModelSpec, tokenizer: Tokenizer, device: &Device, learned_positions: bool, network: N) -> Self {
        let fingerprints = Fingerprints::new(parameters::names(&network));
        Self { spec, tokenizer, device: device.clone(), learned_positions, network, fingerprints }
    }

    fn check_hidden(&self, hidden: &Tensor<2>) -> Result<usize> {
        let [tokens, width] = hidden.dims();
        if width == self.spec.d_model {
            Ok(tokens)
        } else {
            Err(Error::Batch(format!("hidden states of width {width} do not fit {}, whose width is {}", self.spec.name, self.spec.d_model)))
        }
    }
}

impl<N: Network> Predictor for Decoder<N> {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_positions(&self) -> usize {
        self.spec.max_positions
    }

    fn decoder_start(&self) -> Option<u32> {
        self.spec.encoder.as_ref().map(|encoder| encoder.decoder_start)
    }

    fn score(&self, rows: &[&TargetTokens], progress: &dyn Progress) -> Result<Vec<TargetScore>> {
        white_box::score(self, rows, progress)
    }

    fn generate(&self, prompts: &[TokenSlice<'_>], config: &GenerationConfig) -> Result<Vec<Generation>> {
        white_box::generate(self, prompts, config)
    }
}

impl<N: Network> LanguageModel for Decoder<N> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn embed(&self, pass: &Pass) -> Result<Tensor<2>> {
        let ModelSpec { vocab_size, max_positions, name, .. } = &self.spec;
        check_ids(pass.batch(), *vocab_size, name)?;
        if self.learned_positions
            && let Some(position) = pass.positions().iter().find(|position| **position >= *max_positions)
        {
            return Err(Error::Batch(format!("position {position} is beyond the {max_positions} positions of {name}; use a shorter text")));
        }
        embed(&self.network, pass)
    }

    fn run_layers(&self, hidden: Tensor<2>, layers: Range<usize>, pass: &mut Pass, probe: &mut dyn Probe) -> Result<Tensor<2>> {
        let tokens = self.check_hidden(&hidden)?;
        if tokens != pass.batch().tokens() {
            return Err(Error::Batch(format!("{tokens} hidden states do not fit a batch of {} tokens", pass.batch().tokens())));
        }
        let Some(blocks) = self.network.blocks().get(layers.clone()) else {
            return Err(Error::Batch(format!("layers {layers:?} are out of range: {} has {} layers", self.spec.name, self.spec.n_layers)));
        };
        match (self.network.encoder().is_some(), pass.encoder_output().is_some()) {
            (true, false) => {
                return Err(Error::Batch(format!("{} is an encoder-decoder: its passes have to read an encoder's output", self.spec.name)));
            }
            (false, true) => {
                return Err(Error::Batch(format!("{} is a decoder-only model and reads no encoder's output", self.spec.name)));
            }
            _ => {}
        }
        if layers.is_empty() {
            return Ok(hidden);
        }
        let mut hidden = hidden;
        if layers.start == 0 {
            hidden = probe.at(Site::new(0, Module::Embedding), hidden);
        }
        let positions = self.network.positions(pass);
        for block in blocks {
            hidden = block.forward(hidden, &positions, pass, probe);
            if probe.is_done() {
                break;
            }
        }
        Ok(hidden)
    }

    fn logits(&self, hidden: Tensor<2>, positions: &[usize]) -> Result<Tensor<2>> {
        let tokens = self.check_hidden(&hidden)?;
        if positions.is_empty() {
            return Err(Error::Batch("logits were asked for at no position".into()));
        }
        if let Some(position) = positions.iter().find(|position| **position >= tokens) {
            return Err(Error::Batch(format!("logits were asked for at position {position} of {tokens}")));
        }
        let all = positions.len() == tokens && positions.iter().enumerate().all(|(index, position)| index == *position);
        let chosen = if all { hidden } else { (self as &dyn LanguageModel).rows_of(hidden, positions) };
        Ok(self.network.head(chosen))
    }

    fn parameter_names(&self) -> Vec<ParamName> {
        parameters::names(&self.network)
    }

    fn weight(&self, name: &ParamName) -> Result<Tensor<2>> {
        parameters::weight(&self.network, &self.spec.name, name)
    }

    fn fingerprint(&self, name: &ParamName) -> Result<Fingerprint> {
        self.fingerprints.get(name, || Fingerprint::of(&self.weight(name)?))
    }

    fn set_weight(&mut self, name: &ParamName, weight: Tensor<2>) -> Result<()> {
        self.fingerprints.forget(name);
        parameters::set_weight(&mut self.network, &self.spec.name, name, weight)
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        self.network.encoder()
    }

    fn boxed_clone(&self) -> Box<dyn LanguageModel> {
        Box::new(self.clone())
    }
}

/// What enters layer 0: embeddings of ids or inserted vectors, and positions.
pub(crate) fn embed<N: Network>(network: &N, pass: &Pass) -> Result<Tensor<2>> {
    Ok(network.add_positions(pass.put_inserts(network.embed_ids(pass))?, pass))
}

/// Checks that every id of a batch is a row of the embedding of the model called `name`.
pub(crate) fn check_ids(batch: &TokenBatch, vocab_size: usize, name: &str) -> Result<()> {
    match batch.ids().iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(Error::Batch(format!("token id {id} is beyond the {vocab_size} tokens of {name}; is this its tokenizer?"))),
        None => Ok(()),
    }
}
