use std::ops::Range;

use burn::tensor::Tensor;
use easyedit_core::{Capture, Error, KvCache, LanguageModel, Matrix, Module, Pass, Probe, Result, Site, TokenBatch, TokenSlice};

use crate::FactRow;
use crate::prefixes::stems;

/// Tokens that are run at once.
const TOKENS_AT_ONCE: usize = 2048;

/// The contexts of many facts on their way up through the layers, each up to its fact token. What an edit of a layer does to the layers above
/// is seen by going on from there; what lies below is not run again. Beginnings that contexts share (context templates, of every request
/// anew) are run once.
#[derive(Debug)]
pub struct LayerWalk {
    /// The layer to go on with.
    layer: usize,
    /// For each context, its place among those that differ.
    place: Vec<usize>,
    /// The shared beginnings.
    stems: Option<Box<LayerWalk>>,
    chunks: Vec<Chunk>,
}

/// Some of the contexts that differ, behind their shared beginnings.
#[derive(Debug)]
struct Chunk {
    /// Places of the contexts.
    places: Range<usize>,
    /// Per context, its beginning among those shared; `None` if it shares none.
    stems: Vec<Option<usize>>,
    batch: TokenBatch,
    /// What enters the next layer: `[tokens, d_model]`.
    hidden: Tensor<2>,
}

/// What comes out of a run.
struct Ran {
    /// Per chunk that was run: `[tokens, d_model]`.
    hidden: Vec<Tensor<2>>,
    /// Keys and values of the contexts that differ, if they were to be kept.
    cache: Option<KvCache>,
}

/// Gets a chunk's batch, and a function that runs it with a probe; gives what comes out of it.
type EachChunk<'a> = dyn FnMut(&TokenBatch, &mut dyn FnMut(&mut dyn Probe) -> Result<Tensor<2>>) -> Result<Tensor<2>> + 'a;

impl LayerWalk {
    /// The contexts `rows` before layer 0.
    ///
    /// # Errors
    ///
    /// If there is no row, or a fact token lies outside of its row.
    pub fn new(model: &dyn LanguageModel, rows: &[&FactRow]) -> Result<Self> {
        let up_to_facts = rows.iter().enumerate().map(|(index, context)| match context.fact_index < context.row.len() {
            true => Ok(context.row.prefix(context.fact_index + 1)),
            false => Err(Error::Batch(format!("the fact token of context {index} lies outside of its tokens"))),
        });
        Self::of(model, &up_to_facts.collect::<Result<Vec<TokenSlice<'_>>>>()?)
    }

    fn of(model: &dyn LanguageModel, rows: &[TokenSlice<'_>]) -> Result<Self> {
        let mut unique = rows.to_vec();
        unique.sort_unstable();
        unique.dedup();
        let place = rows.iter().map(|row| unique.binary_search(row).unwrap_or(0)).collect();
        let beginnings = stems(&unique);
        let shared: Vec<TokenSlice<'_>> = beginnings.iter().copied().filter(|stem| !stem.is_empty()).collect();
        let stems = if shared.is_empty() { None } else { Some(Box::new(Self::of(model, &shared)?)) };
        let mut walk = Self { layer: 0, place, stems, chunks: Vec::new() };
        let cache = walk.stems_cache(model, 0..0)?;
        let (mut start, mut number) = (0, 0);
        while start < unique.len() {
            let (mut end, mut tokens) = (start, 0);
            while end < unique.len() && (end == start || tokens < TOKENS_AT_ONCE) {
                tokens += unique[end].len() - beginnings[end].len();
                end += 1;
            }
            let rests: Vec<TokenSlice<'_>> = (start..end).map(|place| unique[place].suffix(beginnings[place].len())).collect();
            let batch = TokenBatch::new(&rests)?;
            let stems: Vec<Option<usize>> = beginnings[start..end]
                .iter()
                .map(|stem| {
                    let shares = !stem.is_empty();
                    number += usize::from(shares);
                    shares.then(|| number - 1)
                })
                .collect();
            let hidden = model.embed(&pass(model, batch.clone(), &stems, cache.as_ref())?)?;
            walk.chunks.push(Chunk { places: start..end, stems, batch, hidden });
            start = end;
        }
        Ok(walk)
    }

    /// Each context's MLP key at its fact token in layer `layer`, `[contexts, d_mlp]`, with the weights that `model` has now. Layers are asked for
    /// in rising order; below the one last asked for, the weights are those the model had then.
    ///
    /// # Errors
    ///
    /// If the layer is out of range, or below one that was asked for.
    pub fn keys(&mut self, model: &dyn LanguageModel, layer: usize) -> Result<Matrix> {
        model.spec().check_layer(layer)?;
        self.advance(model, layer)?;
        let all: Vec<usize> = (0..self.place.len()).collect();
        self.activations(model, &all, layer, Module::MlpKey)
    }

    /// The activations `module` of layer `layer` at the fact tokens of the contexts `rows`, `[rows, width]`, with the weights that `model` has now from
    /// the layer on that keys were last asked for.
    ///
    /// # Errors
    ///
    /// If the layer is out of range or below one that was asked for, or a row is out of range.
    pub fn activations(&self, model: &dyn LanguageModel, rows: &[usize], layer: usize, module: Module) -> Result<Matrix> {
        model.spec().check_layer(layer)?;
        if layer < self.layer {
            return Err(Error::Batch(format!("the contexts have left layer {layer} behind: they are before layer {}", self.layer)));
        }
        let places: Option<Vec<usize>> = rows.iter().map(|row| self.place.get(*row).copied()).collect();
        let places = places.ok_or_else(|| Error::Batch(format!("rows {rows:?} are not all among the {} contexts", self.place.len())))?;
        let mut wanted = places.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let site = Site::new(layer, module);
        let mut values = Vec::new();
        self.run(model, self.layer..layer + 1, Some(&wanted), false, &mut |batch, run| {
            let mut capture = Capture::new([site]);
            let hidden = run(&mut capture)?;
            let seen = capture.take(site).ok_or_else(|| Error::Batch(format!("the model does not show its activations at {site}")))?;
            values.extend_from_slice(Matrix::from_tensor(&model.rows_of(seen, &batch.last_indices()))?.values());
            Ok(hidden)
        })?;
        let width = values.len() / wanted.len().max(1);
        let found =
            Matrix::new(wanted.len(), width, values).ok_or_else(|| Error::Batch("the contexts' activations differ in width".into()))?;
        Ok(found.select_rows(&places.iter().map(|place| wanted.binary_search(place).unwrap_or(0)).collect::<Vec<usize>>()))
    }

    /// Runs everything up to where layer `layer` begins.
    fn advance(&mut self, model: &dyn LanguageModel, layer: usize) -> Result<()> {
        if layer < self.layer {
            return Err(Error::Batch(format!("the contexts have left layer {layer} behind: they are before layer {}", self.layer)));
        }
        let ran = self.run(model, self.layer..layer, None, false, &mut |_, run| run(&mut ()))?;
        for (chunk, hidden) in self.chunks.iter_mut().zip(ran.hidden) {
            chunk.hidden = hidden;
        }
        if let Some(stems) = &mut self.stems {
            stems.advance(model, layer)?;
        }
        self.layer = layer;
        Ok(())
    }

    /// The shared beginnings' keys and values of attention in `layers`.
    fn stems_cache(&self, model: &dyn LanguageModel, layers: Range<usize>) -> Result<Option<KvCache>> {
        let Some(stems) = &self.stems else { return Ok(None) };
        let cache = stems.run(model, layers, None, true, &mut |_, run| run(&mut ()))?.cache;
        cache.map(|cache| cache.select_rows(&stems.place, &model.device())).transpose()
    }

    /// Runs the chunks (of the contexts at `places`, or of all) through `layers`, from where they are; `each` decides with which probe.
    fn run(
        &self,
        model: &dyn LanguageModel,
        layers: Range<usize>,
        places: Option<&[usize]>,
        keeping: bool,
        each: &mut EachChunk<'_>,
    ) -> Result<Ran> {
        let cache = self.stems_cache(model, layers.clone())?;
        let (mut ran, mut caches) = (Ran { hidden: Vec::new(), cache: None }, Vec::new());
        for chunk in &self.chunks {
            let own: Vec<usize> = match places {
                Some(places) => {
                    places.iter().filter(|place| chunk.places.contains(place)).map(|place| place - chunk.places.start).collect()
                }
                None => (0..chunk.places.len()).collect(),
            };
            if own.is_empty() {
                continue;
            }
            let (batch, stems, hidden) = chunk.select(model, &own)?;
            let mut pass = pass(model, batch.clone(), &stems, cache.as_ref())?;
            if keeping {
                pass = pass.keeping();
            }
            let hidden = each(&batch, &mut |probe| model.run_layers(hidden.clone(), layers.clone(), &mut pass, probe))?;
            if keeping {
                caches.push(pass.into_cache()?);
            }
            ran.hidden.push(hidden);
        }
        if keeping {
            ran.cache = Some(KvCache::join(&caches.iter().collect::<Vec<_>>(), &model.device())?);
        }
        Ok(ran)
    }
}

impl Chunk {
    /// Batch, beginnings and activations of the contexts `own`.
    fn select(&self, model: &dyn LanguageModel, own: &[usize]) -> Result<(TokenBatch, Vec<Option<usize>>, Tensor<2>)> {
        if own.len() == self.places.len() {
            return Ok((self.batch.clone(), self.stems.clone(), self.hidden.clone()));
        }
        let tokens: Vec<usize> = own.iter().flat_map(|row| self.batch.range(*row)).collect();
        let stems = own.iter().map(|row| self.stems[*row]).collect();
        Ok((self.batch.select_rows(own)?, stems, model.rows_of(self.hidden.clone(), &tokens)))
    }
}

/// A pass of `batch` behind the beginnings `stems` of `cache`.
fn pass(model: &dyn LanguageModel, batch: TokenBatch, stems: &[Option<usize>], cache: Option<&KvCache>) -> Result<Pass> {
    let device = model.device();
    let Some(cache) = cache.filter(|_| stems.iter().any(Option::is_some)) else { return Ok(Pass::new(batch, &device)) };
    // A context without a beginning takes any and forgets it.
    let rows: Vec<usize> = stems.iter().map(|stem| stem.unwrap_or(0)).collect();
    let mut past = cache.select_rows(&rows, &device)?;
    for (row, stem) in stems.iter().enumerate() {
        if stem.is_none() {
            past.clear_row(row);
        }
    }
    Pass::after(batch, past, &device)
}
