use std::collections::BTreeMap;

use easyedit_core::{Error, LanguageModel, Result, Session};

use crate::{Cholesky, LocateSettings, SecondMoments, TemplateConfig, checked_templates, context_templates, needed_moments};

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

    /// Checks that `settings` fit the model; writes context templates unless there are some; and collects the second moments of those of
    /// the layers that have none, if they are needed.
    ///
    /// # Errors
    ///
    /// As [`LocateSettings::check_model`], [`context_templates`] and [`second_moments`].
    pub fn prepare(
        &mut self,
        model: &dyn LanguageModel,
        settings: &LocateSettings<'_>,
        needs_moments: bool,
        session: &Session,
    ) -> Result<()> {
        settings.check_model(model.spec())?;
        if self.templates.is_none() {
            let config = TemplateConfig { lengths: settings.templates.to_vec(), seed: session.seed() };
            let cache = session.cache();
            self.templates = Some(context_templates(model, &config, cache, session.progress())?);
        }
        let missing: Vec<usize> = settings.layers.iter().copied().filter(|layer| !self.moments.contains_key(layer)).collect();
        if needs_moments {
            for (layer, moments) in second_moments(model, &missing, settings, session)? {
                self.moments.insert(layer, moments.factor(layer)?);
            }
        }
        Ok(())
    }
}

/// The second moments of `layers` that the settings ask for.
///
/// # Errors
///
/// As [`needed_moments`] and [`FoundMoments::check`](crate::FoundMoments::check).
pub fn second_moments(
    model: &dyn LanguageModel,
    layers: &[usize],
    settings: &LocateSettings<'_>,
    session: &Session,
) -> Result<BTreeMap<usize, SecondMoments>> {
    if layers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = needed_moments(model, layers, &settings.moments, session)?;
    found.into_iter().map(|(layer, found)| found.check(layer).map(|()| (layer, found.moments))).collect()
}
