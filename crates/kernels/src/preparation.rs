use std::collections::BTreeMap;

use easyedit_core::{EditContext, Error, LanguageModel, Result};

use crate::{Cholesky, MomentNeeds, TemplateConfig, checked_templates, context_templates, needed_moments};

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

    /// Finds or collects the second moments of those of `layers` that have none.
    ///
    /// # Errors
    ///
    /// As [`needed_moments`].
    pub fn collect_moments(
        &mut self,
        model: &dyn LanguageModel,
        layers: &[usize],
        needs: &MomentNeeds<'_>,
        context: &EditContext<'_>,
    ) -> Result<()> {
        let missing: Vec<usize> = layers.iter().copied().filter(|layer| !self.moments.contains_key(layer)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for (layer, found) in needed_moments(model, &missing, needs, context)? {
            self.moments.insert(layer, found.moments.factor(layer)?);
        }
        Ok(())
    }
}
