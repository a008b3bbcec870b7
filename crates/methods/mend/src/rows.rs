use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{LanguageModel, Pass, Probe, Result, TokenBatch, TokenSlice};

use crate::inner::InnerWeights;

/// Rows that are run together, each of which belongs to an edit. Rows of one edit stand together.
///
/// What no inner weight can change is run once: the layers below the first of them, and the encoder if none is there.
pub(crate) struct Rows {
    start: Start,
    /// Of each row: its edit, the positions that predict its target, and the target.
    rows: Vec<(usize, Range<usize>, Vec<u32>)>,
    /// The first position of each row.
    firsts: Vec<usize>,
    tokens: Grouping,
    sources: Option<Grouping>,
}

/// Where a pass begins.
enum Start {
    /// With the encoder, some of whose weights are inner ones.
    Encoder { sources: TokenBatch, batch: TokenBatch },
    /// With a layer of the decoder, from the activations that enter it.
    Layer { layer: usize, pass: Box<Pass>, hidden: Tensor<2> },
}

/// Predictions whose logits are read, in their order.
pub(crate) struct Targets {
    /// Positions among the tokens of the rows.
    pub(crate) positions: Vec<usize>,
    /// The token to predict at each; `None` where only the distribution counts.
    pub(crate) ids: Vec<Option<u32>>,
    /// The row of each, counted among the rows that were asked for.
    pub(crate) rows: Vec<usize>,
    /// The edit of each.
    pub(crate) edits: Vec<usize>,
    /// Number of edits.
    pub(crate) edit_count: usize,
}

impl Rows {
    /// The rows `rows`, each with the number of its edit; those numbers rise from 0.
    ///
    /// # Errors
    ///
    /// If a row does not fit the model.
    pub(crate) fn new(model: &dyn LanguageModel, inner: &InnerWeights, rows: &[(usize, &TargetTokens)]) -> Result<Self> {
        let spec = model.spec();
        let inputs: Vec<TokenSlice<'_>> = rows.iter().map(|(_, row)| row.input()).collect();
        let sources: Vec<TokenSlice<'_>> = rows.iter().map(|(_, row)| row.source.as_slice()).collect();
        let batch = TokenBatch::new(&inputs)?;
        let owners: Vec<usize> = rows.iter().map(|(edit, _)| *edit).collect();
        let device = model.device();
        let tokens = Grouping::new(&batch, &owners, &device);
        let with_targets = rows.iter().enumerate().map(|(number, (edit, row))| {
            let predicting = row.predicting();
            (*edit, batch.index(number, predicting.start)..batch.index(number, predicting.end), row.target().to_vec())
        });
        let with_targets = with_targets.collect();
        let firsts = (0..batch.rows()).map(|row| batch.range(row).start).collect();
        let mut grouped_sources = None;
        let start = if inner.reach_encoder() {
            let sources = TokenBatch::new(&sources)?;
            grouped_sources = Some(Grouping::new(&sources, &owners, &device));
            Start::Encoder { sources, batch }
        } else {
            let layer = inner.first_layer(spec);
            let mut pass = Box::new(model.start(&sources, batch)?);
            let hidden = model.embed(&pass)?;
            let hidden = model.run_layers(hidden, 0..layer, &mut pass, &mut ())?;
            Start::Layer { layer, pass, hidden }
        };
        Ok(Self { start, rows: with_targets, firsts, tokens, sources: grouped_sources })
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The edit of each token.
    pub(crate) fn owners(&self) -> &[usize] {
        &self.tokens.owners
    }

    /// The edit of each token that the encoder reads, if one of its weights is an inner one.
    pub(crate) fn source_owners(&self) -> &[usize] {
        self.sources.as_ref().map_or(&[], |sources| &sources.owners)
    }

    pub(crate) fn tokens(&self) -> &Grouping {
        &self.tokens
    }

    pub(crate) fn sources(&self) -> Option<&Grouping> {
        self.sources.as_ref()
    }

    /// The targets of the rows `chosen`.
    pub(crate) fn targets(&self, chosen: impl IntoIterator<Item = usize>) -> Targets {
        self.chosen(chosen, false)
    }

    /// As [`targets`](Self::targets), with every other position of the rows too.
    pub(crate) fn all_positions(&self, chosen: impl IntoIterator<Item = usize>) -> Targets {
        self.chosen(chosen, true)
    }

    fn chosen(&self, chosen: impl IntoIterator<Item = usize>, all: bool) -> Targets {
        let (mut positions, mut ids, mut rows, mut edits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, row) in chosen.into_iter().enumerate() {
            let Some((edit, predicting, target)) = self.rows.get(row) else { continue };
            let first = self.firsts.get(row).copied().unwrap_or(predicting.start);
            let others = if all { first..predicting.start } else { 0..0 };
            let with_ids = others.map(|position| (position, None)).chain(predicting.clone().zip(target.iter().copied().map(Some)));
            for (position, id) in with_ids {
                positions.push(position);
                ids.push(id);
                rows.push(number);
                edits.push(*edit);
            }
        }
        let edit_count = self.rows.last().map_or(0, |(edit, ..)| edit + 1);
        Targets { positions, ids, rows, edits, edit_count }
    }

    /// Logits at `positions`: `[positions, vocabulary]`.
    pub(crate) fn logits(&self, model: &dyn LanguageModel, probe: &mut dyn Probe, positions: &[usize]) -> Result<Tensor<2>> {
        let (layer, mut pass, hidden) = match &self.start {
            Start::Layer { layer, pass, hidden } => (*layer, (**pass).clone(), hidden.clone()),
            Start::Encoder { sources, batch } => {
                let encoder = model.encoder().ok_or_else(|| easyedit_core::Error::Batch("the model has no encoder".into()))?;
                let output = encoder.encode(sources, probe)?;
                let pass = Pass::new(batch.clone(), &model.device()).reading(output)?;
                let hidden = model.embed(&pass)?;
                (0, pass, hidden)
            }
        };
        let hidden = model.run_layers(hidden, layer..model.spec().n_layers, &mut pass, probe)?;
        model.logits(hidden, positions)
    }
}

/// Tokens side by side by their edits: where factors that differ by edit meet the activations of ragged rows.
pub(crate) struct Grouping {
    /// The edit of each token.
    owners: Vec<usize>,
    edits: usize,
    /// Most tokens of an edit.
    width: usize,
    /// Which token stands at each place (any, where an edit has fewer), and at which place each token. `None` if all have as many.
    places: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
}

impl Grouping {
    fn new(batch: &TokenBatch, row_owners: &[usize], device: &Device) -> Self {
        let owners: Vec<usize> = row_owners.iter().enumerate().flat_map(|(row, edit)| std::iter::repeat_n(*edit, batch.len(row))).collect();
        let edits = owners.last().map_or(0, |edit| edit + 1);
        let mut tokens: Vec<Vec<i64>> = vec![Vec::new(); edits];
        for (token, edit) in (0i64..).zip(&owners) {
            if let Some(tokens) = tokens.get_mut(*edit) {
                tokens.push(token);
            }
        }
        let width = tokens.iter().map(Vec::len).max().unwrap_or(0);
        let is_ragged = tokens.iter().any(|tokens| tokens.len() != width);
        let places = is_ragged.then(|| {
            let to_tokens: Vec<i64> = (0i64..)
                .zip(&tokens)
                .flat_map(|(edit, tokens)| (0i64..).take(tokens.len()).map(move |place| edit * width as i64 + place))
                .collect();
            let from_tokens: Vec<i64> = tokens
                .into_iter()
                .flat_map(|mut tokens| {
                    tokens.resize(width, 0);
                    tokens
                })
                .collect();
            (indices(from_tokens, device), indices(to_tokens, device))
        });
        Self { owners, edits, width, places }
    }

    /// `[tokens, d]` -> `[edits, width, d]`
    pub(crate) fn spread(&self, x: Tensor<2>) -> Tensor<3> {
        let d = x.dims()[1];
        let x = match &self.places {
            Some((from_tokens, _)) => x.select(0, from_tokens.clone()),
            None => x,
        };
        x.reshape([self.edits, self.width, d])
    }

    /// `[edits, width, d]` -> `[tokens, d]`
    pub(crate) fn collect(&self, x: Tensor<3>) -> Tensor<2> {
        let d = x.dims()[2];
        let x = x.reshape([self.edits * self.width, d]);
        match &self.places {
            Some((_, to_tokens)) => x.select(0, to_tokens.clone()),
            None => x,
        }
    }
}

fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
