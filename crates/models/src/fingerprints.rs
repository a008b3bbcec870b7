//! Fingerprints of a model's parameters, computed when they are first asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use easyedit_core::{Fingerprint, ParamName, Result};

/// A place for the fingerprint of each parameter. Clones share the places of the weights that they share.
#[derive(Clone, Debug)]
pub(crate) struct Fingerprints {
    index: Arc<BTreeMap<ParamName, usize>>,
    slots: Vec<Arc<OnceLock<Fingerprint>>>,
}

impl Fingerprints {
    /// Empty places for these parameters.
    pub(crate) fn new(names: Vec<ParamName>) -> Self {
        let slots = names.iter().map(|_| Arc::default()).collect();
        Self { index: Arc::new(names.into_iter().enumerate().map(|(place, name)| (name, place)).collect()), slots }
    }

    /// The fingerprint of `name`, computed by `compute` unless it is known.
    pub(crate) fn get(&self, name: &ParamName, compute: impl FnOnce() -> Result<Fingerprint>) -> Result<Fingerprint> {
        let Some(slot) = self.index.get(name).and_then(|place| self.slots.get(*place)) else { return compute() };
        match slot.get() {
            Some(known) => Ok(known.clone()),
            None => {
                let computed = compute()?;
                Ok(slot.get_or_init(|| computed).clone())
            }
        }
    }

    /// Forgets the fingerprint of `name` here, but not in clones, which keep the weight.
    pub(crate) fn forget(&mut self, name: &ParamName) {
        if let Some(slot) = self.index.get(name).and_then(|place| self.slots.get_mut(*place)) {
            *slot = Arc::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use easyedit_core::fingerprint_values;

    use super::*;

    #[test]
    fn clones_share_what_they_share_and_forget_alone() {
        let name = ParamName::from("a.weight");
        let mut first = Fingerprints::new(vec![name.clone()]);
        let second = first.clone();
        let print = |value: f32| fingerprint_values([1, 1], &[value]);
        assert_eq!(first.get(&name, || Ok(print(1.0))).unwrap(), print(1.0));
        let known = || panic!("it is known");
        assert_eq!(second.get(&name, known).unwrap(), print(1.0));
        first.forget(&name);
        assert_eq!(first.get(&name, || Ok(print(2.0))).unwrap(), print(2.0));
        assert_eq!(second.get(&name, known).unwrap(), print(1.0));
        assert_eq!(second.get(&"b".into(), || Ok(print(3.0))).unwrap(), print(3.0));
    }
}
