use burn::tensor::Tensor;
use easyedit_core::tokens::FactPrompt;
use easyedit_core::{Capture, Error, KvCache, LanguageModel, Matrix, Module, Pass, Result, Site, TokenBatch};

/// A context of a fact: the tokens to run, and which of them is the fact token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Index of the fact token.
    pub fact_index: usize,
}

impl From<FactPrompt> for FactRow {
    fn from(prompt: FactPrompt) -> Self {
        Self { ids: prompt.ids, fact_index: prompt.fact_index }
    }
}

/// A batch of contexts run up to a layer, split at their fact tokens.
///
/// A change at the fact token of layer `layer` cannot reach the tokens before it, nor the layers up to `layer`. So the former are
/// run once through all layers and leave their keys and values of attention; the tokens from the fact token on (the suffix) are run
/// once up to `layer`; what remains to be run for any change at the fact token is the suffix above `layer`.
#[derive(Clone, Debug)]
pub struct FactStates {
    layer: usize,
    starts: Vec<usize>,
    pass: Pass,
    hidden: Tensor<2>,
    keys: Matrix,
    outputs: Matrix,
}

impl FactStates {
    /// Runs `rows` up to `layer`; with `above`, prepares to run the layers above it too.
    ///
    /// # Errors
    ///
    /// If a row is empty or its fact token lies outside of it, or the layer is out of range.
    pub fn collect(model: &dyn LanguageModel, rows: &[FactRow], layer: usize, above: bool) -> Result<Self> {
        model.spec().check_layer(layer)?;
        if let Some(index) = rows.iter().position(|row| row.fact_index >= row.ids.len()) {
            return Err(Error::Batch(format!("the fact token of context {index} lies outside of its tokens")));
        }
        let device = model.device();
        let prefixes: Vec<&[u32]> = rows.iter().map(|row| &row.ids[..row.fact_index]).collect();
        let depth = if above { model.spec().n_layers } else { layer + 1 };
        let suffixes: Vec<&[u32]> = rows.iter().map(|row| &row.ids[row.fact_index..]).collect();
        let batch = TokenBatch::new(&suffixes)?;
        let mut pass = match prefix_cache(model, &prefixes, depth)? {
            Some(cache) => Pass::after(batch, cache, &device)?,
            None => Pass::new(batch, &device),
        };
        let [key, output] = [Module::MlpKey, Module::MlpOutput].map(|module| Site::new(layer, module));
        let mut capture = Capture::new([key, output]);
        let hidden = model.embed(&pass)?;
        let hidden = model.run_layers(hidden, 0..layer + 1, &mut pass, &mut capture)?;
        let facts: Vec<usize> = (0..rows.len()).map(|row| pass.batch().index(row, 0)).collect();
        let mut at_facts = |site: Site| -> Result<Matrix> {
            let seen = capture.take(site).ok_or_else(|| Error::Batch(format!("the model does not show its activations at {site}")))?;
            Matrix::from_tensor(&model.rows_of(seen, &facts))
        };
        let (keys, outputs) = (at_facts(key)?, at_facts(output)?);
        Ok(Self { layer, starts: rows.iter().map(|row| row.fact_index).collect(), pass, hidden, keys, outputs })
    }

    /// The states of the contexts `rows` alone, in that order; nothing is run again.
    ///
    /// # Errors
    ///
    /// If there are no rows, or one is out of range.
    pub fn select(&self, model: &dyn LanguageModel, rows: &[usize]) -> Result<Self> {
        let pass = self.pass.select_rows(rows)?;
        let tokens: Vec<usize> = rows.iter().flat_map(|row| self.pass.batch().range(*row)).collect();
        let [keys, outputs] = [&self.keys, &self.outputs].map(|matrix| matrix.select_rows(rows));
        let hidden = model.rows_of(self.hidden.clone(), &tokens);
        Ok(Self { layer: self.layer, starts: rows.iter().map(|row| self.starts[*row]).collect(), pass, hidden, keys, outputs })
    }

    /// Number of tokens of row `row` from its fact token on.
    pub(crate) fn suffix_length(&self, row: usize) -> usize {
        self.pass.batch().len(row)
    }

    /// Number of tokens of all rows from their fact tokens on.
    pub fn suffix_tokens(&self) -> usize {
        self.pass.batch().tokens()
    }

    /// The layer the states are of.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// MLP keys at the fact tokens: `[rows, d_mlp]`.
    pub fn keys(&self) -> &Matrix {
        &self.keys
    }

    /// MLP outputs at the fact tokens: `[rows, d_model]`.
    pub fn outputs(&self) -> &Matrix {
        &self.outputs
    }

    /// Block outputs at the fact tokens: `[rows, d_model]`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn block_outputs(&self, model: &dyn LanguageModel) -> Result<Matrix> {
        let facts: Vec<usize> = (0..self.starts.len()).map(|row| self.fact_position(row)).collect();
        Matrix::from_tensor(&model.rows_of(self.hidden.clone(), &facts))
    }

    /// Block outputs of the suffixes: `[tokens, d_model]`, rows as in [`pass`](Self::pass).
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

/// Runs the prefixes through the first `depth` layers and keeps their keys and values; `None` if all are empty.
fn prefix_cache(model: &dyn LanguageModel, prefixes: &[&[u32]], depth: usize) -> Result<Option<KvCache>> {
    if prefixes.iter().all(|prefix| prefix.is_empty()) {
        return Ok(None);
    }
    let device = model.device();
    let mut unique: Vec<&[u32]> = prefixes.iter().copied().filter(|prefix| !prefix.is_empty()).collect();
    unique.sort_unstable();
    unique.dedup();
    let mut pass = Pass::new(TokenBatch::new(&unique)?, &device).keeping();
    let hidden = model.embed(&pass)?;
    model.run_layers(hidden, 0..depth, &mut pass, &mut ())?;
    // A row without a prefix takes any row of the cache and forgets it.
    let rows: Vec<usize> = prefixes.iter().map(|prefix| unique.binary_search(prefix).unwrap_or(0)).collect();
    let mut cache = pass.into_cache()?.select_rows(&rows, &device)?;
    for (row, prefix) in prefixes.iter().enumerate() {
        if prefix.is_empty() {
            cache.clear_row(row);
        }
    }
    Ok(Some(cache))
}
