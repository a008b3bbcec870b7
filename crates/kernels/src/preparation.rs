use std::collections::BTreeMap;

use easyedit_core::{EditContext, Error, LanguageModel, Result};

use crate::{Cholesky, MomentConfig, TemplateConfig, cached_moments, checked_templates, context_templates};

/// What the methods that locate and edit make ready once for all their edits: context templates, and second moments.
#[derive(Debug, Default)]
pub struct Preparation {
    templates: Option<Vec<String>>,
    moments: BTreeMap<usize, Cholesky>,
}

impl Preparation {
    /// Uses these context templates instead of writing new ones.
    ///
    /// # Errors
    ///
    /// As [`checked_templates`].
    pub fn set_templates(&mut self, templates: Vec<String>) -> Result<()> {
        self.templates = Some(checked_templates(templates)?);
        Ok(())
    }

    /// Uses this factor of the second moment of layer `layer` instead of collecting statistics.
    pub fn set_moments(&mut self, layer: usize, factor: Cholesky) {
        self.moments.insert(layer, factor);
    }

    /// The context templates; none before they are set or written.
    pub fn templates(&self) -> &[String] {
        self.templates.as_deref().unwrap_or_default()
    }

    /// The factor of the second moment of layer `layer`.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if it was neither set nor collected.
    pub fn moments(&self, layer: usize) -> Result<&Cholesky> {
        self.moments.get(&layer).ok_or_else(|| Error::Batch(format!("there is no second moment of layer {layer}")))
    }

    /// Writes context templates of the given (tokens, number) pairs, unless there are some.
    ///
    /// # Errors
    ///
    /// As [`context_templates`].
    pub fn write_templates(&mut self, model: &dyn LanguageModel, lengths: &[(usize, usize)], context: &EditContext<'_>) -> Result<()> {
        if self.templates.is_none() {
            let config = TemplateConfig { lengths: lengths.to_vec(), seed: context.seed };
            let cache = context.cache.map(|path| path.as_path());
            self.templates = Some(context_templates(model, &config, cache, context.progress)?);
        }
        Ok(())
    }

    /// Collects the second moments of those of `layers` that have none, over `samples` texts of the corpus called `corpus`.
    ///
    /// # Errors
    ///
    /// If there is no such corpus, or as [`cached_moments`].
    pub fn collect_moments(
        &mut self,
        model: &dyn LanguageModel,
        layers: &[usize],
        corpus: &str,
        samples: usize,
        context: &EditContext<'_>,
    ) -> Result<()> {
        let missing: Vec<usize> = layers.iter().copied().filter(|layer| !self.moments.contains_key(layer)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let documents = context.corpora.documents(corpus)?;
        let config = MomentConfig { samples, ..MomentConfig::default() };
        let cache = context.cache.map(|path| path.as_path());
        for (layer, (moments, _)) in cached_moments(model, &missing, corpus, &documents, &config, cache, context.progress)? {
            self.moments.insert(layer, moments.factor(layer)?);
        }
        Ok(())
    }
}
