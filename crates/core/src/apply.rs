//! Applying edits to a model.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};

use crate::edit::Applied;
use crate::{Edit, Error, Fingerprint, LanguageModel, ParamName, Result, TensorDelta, tensor_values};

/// Applies several edits. Each must have been made for the weights as they were before the first one, or as they are after those before
/// it; where the next one does not fit, but a later one does, that one goes first.
///
/// # Errors
///
/// As [`Edit::apply`], or if an edit is given twice, or is in the model already; the model is unchanged then.
pub fn apply_all(edits: &[Edit], model: &mut dyn LanguageModel) -> Result<Applied> {
    tracing::trace!(target: "easyedit::work", count = edits.len(), "apply edits");
    refuse_repeated(edits)?;
    let mut weights = Weights::of(edits, model)?;
    if let Some(edit) = edits.iter().find(|edit| weights.hold(edit)) {
        return Err(Error::Edit(format!("the {} is already applied to this model", edit.title())));
    }
    let mut waiting: Vec<&Edit> = edits.iter().collect();
    while let Some(next) = weights.next(&waiting)? {
        weights.add(waiting.remove(next))?;
    }
    let mut before = Vec::with_capacity(weights.states.len());
    for (name, state) in &weights.states {
        if tensor_values(&state.now)?.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite(format!("tensor {name}: not finite once the edit is applied; the edit is not used")));
        }
    }
    for (name, state) in weights.states {
        model.set_weight(name, state.now)?;
        before.push((name.clone(), state.before));
    }
    Ok(Applied::new(before))
}

fn refuse_repeated(edits: &[Edit]) -> Result<()> {
    let prints: Vec<Fingerprint> = match edits {
        [] | [_] => return Ok(()),
        several => several.iter().map(Edit::fingerprint).collect(),
    };
    let is_repeated = |(place, print): (usize, &Fingerprint)| prints.get(..place).is_some_and(|before| before.contains(print));
    let repeated = prints.iter().enumerate().position(is_repeated).and_then(|place| edits.get(place));
    match repeated.filter(|edit| !edit.deltas.is_empty()) {
        Some(edit) => Err(Error::Edit(format!("the {} is given twice; leave one of the two out", edit.title()))),
        None => Ok(()),
    }
}

/// The weights that edits change.
struct Weights<'a> {
    states: BTreeMap<&'a ParamName, WeightState>,
    device: Device,
}

struct WeightState {
    before: Tensor<2>,
    first: Fingerprint,
    now: Tensor<2>,
    /// Fingerprint of `now`; computed when an edit asks for it.
    current: Option<Fingerprint>,
}

impl<'a> Weights<'a> {
    /// The weights as `model` has them.
    fn of(edits: &'a [Edit], model: &dyn LanguageModel) -> Result<Self> {
        let mut states: BTreeMap<&ParamName, WeightState> = BTreeMap::new();
        for (name, change) in edits.iter().flat_map(|edit| &edit.deltas) {
            if !states.contains_key(name) {
                let (weight, first) = (model.weight(name)?, model.fingerprint(name)?);
                states.insert(name, WeightState { before: weight.clone(), current: Some(first.clone()), first, now: weight });
            }
            let (want, have) = (change.delta.shape(), states.get(name).map(|state| state.now.dims()).unwrap_or_default());
            if want != have {
                return Err(Error::tensor(name.as_str(), format!("the edit is for shape {want:?}, the model has {have:?}")));
            }
        }
        Ok(Self { states, device: model.device() })
    }

    /// Whether the weights from before all edits are those that `edit` leaves behind.
    fn hold(&self, edit: &Edit) -> bool {
        let first = |name| self.states.get(name).map(|state| &state.first);
        let is_held = edit.deltas.iter().all(|(name, change)| change.after.is_some() && change.after.as_ref() == first(name));
        is_held && edit.deltas.iter().any(|(name, change)| Some(&change.base) != first(name))
    }

    /// Which of the `waiting` edits comes next; `None` if there is none.
    fn next(&mut self, waiting: &[&Edit]) -> Result<Option<usize>> {
        let Some(first) = waiting.first() else { return Ok(None) };
        let mut fits_first = None;
        for (place, edit) in waiting.iter().enumerate() {
            if self.misfit(edit, WeightState::is_current)?.is_none() {
                return Ok(Some(place));
            }
            if fits_first.is_none() && self.misfit(edit, WeightState::is_first_or_current)?.is_none() {
                fits_first = Some(place);
            }
        }
        match (fits_first, self.misfit(first, WeightState::is_first_or_current)?) {
            (None, Some(name)) => Err(Error::tensor(
                name.as_str(),
                format!(
                    "differs from the weight the edit was made for ({} on {}); apply the edit to that model, and an edit of a sequence together with \
                     those before it",
                    first.method, first.model
                ),
            )),
            (place, _) => Ok(place),
        }
    }

    /// The first weight that is not one `edit` can be applied to.
    fn misfit<'e>(&mut self, edit: &'e Edit, fits: fn(&mut WeightState, &Fingerprint) -> Result<bool>) -> Result<Option<&'e ParamName>> {
        for (name, change) in &edit.deltas {
            if let Some(state) = self.states.get_mut(name)
                && !fits(state, &change.base)?
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn add(&mut self, edit: &'a Edit) -> Result<()> {
        for (name, change) in &edit.deltas {
            if let Some(state) = self.states.get_mut(name) {
                state.add(name, change, &self.device)?;
            }
        }
        Ok(())
    }
}

impl WeightState {
    fn current(&mut self) -> Result<&Fingerprint> {
        let current = match self.current.take() {
            Some(current) => current,
            None => Fingerprint::of(&self.now)?,
        };
        Ok(self.current.insert(current))
    }

    fn is_current(&mut self, base: &Fingerprint) -> Result<bool> {
        // What fits the weight from before all edits is not hashed for: unless the changes were nothing, it fits no later one.
        Ok(if self.current.is_none() && *base == self.first { false } else { self.current()? == base })
    }

    fn is_first_or_current(&mut self, base: &Fingerprint) -> Result<bool> {
        Ok(*base == self.first || self.current()? == base)
    }

    fn add(&mut self, name: &ParamName, change: &TensorDelta, device: &Device) -> Result<()> {
        change.delta.check().map_err(|message| Error::tensor(name.as_str(), message))?;
        if !change.delta.is_finite() {
            return Err(Error::NotFinite(format!("tensor {name}: the edit holds NaN or infinity")));
        }
        self.now = self.now.clone() + change.delta.to_tensor(device);
        self.current = None;
        Ok(())
    }
}
