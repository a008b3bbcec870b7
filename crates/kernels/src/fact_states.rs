use burn::tensor::Tensor;
use easyedit_core::tokens::FactPrompt;
use easyedit_core::{Capture, Error, LanguageModel, Matrix, Module, Pass, Result, Site, TokenBatch, TokenRow, TokenSlice};
use serde::Serialize;

use crate::prefixes::prefix_cache;

/// A context of a fact: the tokens to run, and which of them is the fact token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FactRow {
    /// The tokens.
    #[serde(flatten)]
    pub row: TokenRow,
    /// Index of the fact token.
    pub fact_index: usize,
}

impl From<FactPrompt> for FactRow {
    fn from(prompt: FactPrompt) -> Self {
        Self { row: prompt.row, fact_index: prompt.fact_index }
    }
}

/// What a layer does at the fact tokens of a batch of contexts; one row per context.
#[derive(Clone, Debug, PartialEq)]
pub struct FactActivations {
    /// MLP keys: `[contexts, d_mlp]`.
    pub keys: Matrix,
    /// MLP outputs: `[contexts, d_model]`.
    pub mlp_outputs: Matrix,
    /// Attention outputs: `[contexts, d_model]`.
    pub attention_outputs: Matrix,
    /// Block outputs, the hidden states behind the layer: `[contexts, d_model]`.
    pub block_outputs: Matrix,
}

impl FactActivations {
    /// Those of the contexts `rows`.
    pub(crate) fn select_rows(&self, rows: &[usize]) -> Self {
        Self {
            keys: self.keys.select_rows(rows),
            mlp_outputs: self.mlp_outputs.select_rows(rows),
            attention_outputs: self.attention_outputs.select_rows(rows),
            block_outputs: self.block_outputs.select_rows(rows),
        }
    }
}

/// A batch of contexts on its way through the layers, split at their fact tokens.
///
/// A change at the fact token of a layer cannot reach the tokens before it, nor the layers below. So the former are run once through all
/// layers and leave their keys and values of attention; the tokens from the fact token on (the suffix) are run once up to the layer; what
/// remains to be run for any change at the fact token is the suffix from there on.
#[derive(Clone, Debug)]
pub(crate) struct FactStates {
    /// The layer to go on with.
    next: usize,
    starts: Vec<usize>,
    pass: Pass,
    hidden: Tensor<2>,
}

impl FactStates {
    /// Runs `rows` through layer `layer` and tells what happens there. The states are those behind the layer, or before it if they are to
    /// be `entering` it.
    ///
    /// # Errors
    ///
    /// If a row is empty or its fact token lies outside of it, or the layer is out of range.
    pub(crate) fn collect(model: &dyn LanguageModel, rows: &[&FactRow], layer: usize, entering: bool) -> Result<(Self, FactActivations)> {
        model.spec().check_layer(layer)?;
        if let Some(index) = rows.iter().position(|row| row.fact_index >= row.row.len()) {
            return Err(Error::Batch(format!("the fact token of context {index} lies outside of its tokens")));
        }
        let device = model.device();
        let prefixes: Vec<TokenSlice<'_>> = rows.iter().map(|context| context.row.prefix(context.fact_index)).collect();
        let suffixes: Vec<TokenSlice<'_>> = rows.iter().map(|context| context.row.suffix(context.fact_index)).collect();
        let batch = TokenBatch::new(&suffixes)?;
        let mut pass = match prefix_cache(model, &prefixes, 0..model.spec().n_layers)? {
            Some(cache) => Pass::after(batch, cache, &device)?,
            None => Pass::new(batch, &device),
        };
        let facts: Vec<usize> = (0..rows.len()).map(|row| pass.batch().index(row, 0)).collect();
        let before = model.embed(&pass)?;
        let before = model.run_layers(before, 0..layer, &mut pass, &mut ())?;
        let site = |module| Site::new(layer, module);
        let mut capture = Capture::new([Module::MlpKey, Module::MlpOutput, Module::AttentionOutput].map(site));
        let behind = model.run_layers(before.clone(), layer..layer + 1, &mut pass, &mut capture)?;
        let at_facts = |tensor: Tensor<2>| Matrix::from_tensor(&model.rows_of(tensor, &facts));
        let mut captured = |module: Module| -> Result<Matrix> {
            let seen = capture.take(site(module));
            at_facts(seen.ok_or_else(|| Error::Batch(format!("the model does not show its activations at {}", site(module))))?)
        };
        let activations = FactActivations {
            keys: captured(Module::MlpKey)?,
            mlp_outputs: captured(Module::MlpOutput)?,
            attention_outputs: captured(Module::AttentionOutput)?,
            block_outputs: at_facts(behind.clone())?,
        };
        let (next, hidden) = if entering { (layer, before) } else { (layer + 1, behind) };
        Ok((Self { next, starts: rows.iter().map(|row| row.fact_index).collect(), pass, hidden }, activations))
    }

    /// The contexts of all `states`, one after the other; nothing is run again.
    ///
    /// # Errors
    ///
    /// If there are none, or they do not go on with the same layer.
    pub(crate) fn join(states: &[&Self]) -> Result<Self> {
        let Some(next) = states.first().map(|states| states.next).filter(|next| states.iter().all(|s| s.next == *next)) else {
            return Err(Error::Batch("only states that go on with the same layer can be joined".into()));
        };
        let passes: Vec<&Pass> = states.iter().map(|states| &states.pass).collect();
        Ok(Self {
            next,
            starts: states.iter().flat_map(|states| states.starts.iter().copied()).collect(),
            pass: Pass::join(&passes)?,
            hidden: Tensor::cat(states.iter().map(|states| states.hidden.clone()).collect(), 0),
        })
    }

    /// The states of the contexts `rows` alone, in that order; nothing is run again.
    ///
    /// # Errors
    ///
    /// If there are no rows, or one is out of range.
    pub(crate) fn select(&self, model: &dyn LanguageModel, rows: &[usize]) -> Result<Self> {
        let pass = self.pass.select_rows(rows)?;
        let tokens: Vec<usize> = rows.iter().flat_map(|row| self.pass.batch().range(*row)).collect();
        let hidden = model.rows_of(self.hidden.clone(), &tokens);
        Ok(Self { next: self.next, starts: rows.iter().map(|row| self.starts[*row]).collect(), pass, hidden })
    }

    /// Number of tokens of row `row` from its fact token on.
    pub(crate) fn suffix_length(&self, row: usize) -> usize {
        self.pass.batch().len(row)
    }

    /// Number of tokens of all rows from their fact tokens on.
    pub(crate) fn suffix_tokens(&self) -> usize {
        self.pass.batch().tokens()
    }

    /// The layer to go on with.
    pub(crate) fn next_layer(&self) -> usize {
        self.next
    }

    /// The suffixes' activations where [`next_layer`](Self::next_layer) begins: `[tokens, d_model]`, rows as in [`pass`](Self::pass).
    pub(crate) fn hidden(&self) -> &Tensor<2> {
        &self.hidden
    }

    /// The pass over the suffixes, after the cached prefixes.
    pub(crate) fn pass(&self) -> Pass {
        self.pass.clone()
    }

    /// Position in [`hidden`](Self::hidden) of row `row`'s fact token.
    pub(crate) fn fact_position(&self, row: usize) -> usize {
        self.pass.batch().index(row, 0)
    }

    /// Position in [`hidden`](Self::hidden) of token `token` (counted from the row's start) of row `row`; `None` before the fact token.
    pub(crate) fn position(&self, row: usize, token: usize) -> Option<usize> {
        let start = *self.starts.get(row)?;
        let offset = token.checked_sub(start)?;
        (offset < self.pass.batch().len(row)).then(|| self.pass.batch().index(row, offset))
    }
}
