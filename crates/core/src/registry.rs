use std::collections::BTreeMap;

use crate::{
    Edit, EditMethod, Error, Hparams, HparamsDocument, LanguageModel, Method, ModelSpec, Result, Session, apply_all, nearest_name,
};

/// A registered method.
#[derive(Clone, Copy)]
pub struct MethodEntry {
    /// Name, as `alg_name` gives it.
    pub name: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    build: fn(&HparamsDocument) -> Result<Box<dyn EditMethod>>,
    derive: fn(&ModelSpec) -> Result<HparamsDocument>,
}

impl MethodEntry {
    /// The method with the hyperparameters of `document`.
    ///
    /// # Errors
    ///
    /// As [`HparamsDocument::read`].
    pub fn build(&self, document: &HparamsDocument) -> Result<Box<dyn EditMethod>> {
        (self.build)(document)
    }

    /// Hyperparameters by rule, for a model no file exists for.
    ///
    /// # Errors
    ///
    /// If the derived values cannot be written as a document.
    pub fn hparams_for(&self, spec: &ModelSpec) -> Result<HparamsDocument> {
        (self.derive)(spec)
    }
}

impl std::fmt::Debug for MethodEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MethodEntry").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The methods a program knows, by name. Open: other crates [`register`](Self::register) their own.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    methods: BTreeMap<String, MethodEntry>,
}

impl Registry {
    /// A registry without methods.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a method; one of the same name is replaced.
    pub fn register<M: Method>(&mut self) -> &mut Self {
        let entry = MethodEntry {
            name: M::Hparams::METHOD,
            summary: M::SUMMARY,
            build: |document| Ok(Box::new(M::new(document.read::<M::Hparams>()?))),
            derive: |spec| HparamsDocument::from_hparams(&M::hparams_for(spec), &format!("derived for {}", spec.name)),
        };
        self.methods.insert(M::Hparams::METHOD.to_uppercase(), entry);
        self
    }

    /// The method called `name`, in any case.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownMethod`] with the nearest name.
    pub fn get(&self, name: &str) -> Result<&MethodEntry> {
        self.methods.get(&name.to_uppercase()).ok_or_else(|| Error::UnknownMethod {
            name: name.to_owned(),
            suggestion: nearest_name(name, self.names()).map(str::to_owned),
            known: self.names().collect::<Vec<_>>().join(", "),
        })
    }

    /// [`apply_in`](Self::apply_in) a session that has nothing: for methods whose edits hold all they need.
    ///
    /// # Errors
    ///
    /// As [`apply_in`](Self::apply_in).
    pub fn apply(&self, edits: &[Edit], model: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>> {
        self.apply_in(&Session::new(), edits, model)
    }

    /// The model with `edits`: their changes of weights, as [`apply_all`] makes them, and then what they lay over it, one over the other. What
    /// methods have learned is found in the session's corpora.
    ///
    /// # Errors
    ///
    /// As [`apply_all`]; [`Error::UnknownMethod`] if an overlay is of a method that is not registered, otherwise as
    /// [`EditMethod::load_learned`] and [`EditMethod::lay_over`].
    pub fn apply_in(&self, session: &Session, edits: &[Edit], mut model: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>> {
        // The model is the caller's no more: nobody needs its weights back.
        let _applied = apply_all(edits, &mut *model)?;
        for edit in edits.iter().filter(|edit| edit.overlay.is_some()) {
            let document = HparamsDocument::from_json(&edit.hparams, &format!("the edit of {}", edit.method))?;
            let mut method = self.get(&edit.method)?.build(&document)?;
            method.load_learned(&model.device(), session)?;
            model = method.lay_over(edit, model)?;
        }
        Ok(model)
    }

    /// All methods, by name.
    pub fn methods(&self) -> impl Iterator<Item = &MethodEntry> {
        self.methods.values()
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.methods.values().map(|entry| entry.name)
    }
}
