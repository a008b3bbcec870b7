use easyedit_core::{Error, ModelSpec, Module, Result, Site, Stack};
use serde::{Deserialize, Serialize};

/// Keys nearer to each other than this share of their norm are of one and the same prompt: computed in another batch, a key differs by
/// rounding alone.
const SAME_KEY: f64 = 1e-4;

/// Which edit an insertion belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditId {
    /// `case_id` of the request.
    pub case_id: usize,
    /// Its prompt.
    pub prompt: String,
}

/// How an entry takes in a prompt that has its answer and lies outside of its radius. EasyEdit's `eps_expand`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expansion {
    /// The radius grows until it reaches the prompt's key.
    #[default]
    Coverage,
    /// As well, the key moves halfway to that of the prompt.
    MovingAverage,
}

/// Which activations a value replaces. EasyEdit's `replacement`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// That of the prompt's last token.
    #[default]
    ReplaceLast,
    /// Those of all of the prompt's tokens.
    ReplacePrompt,
    /// Those of what follows the prompt, too; not supported.
    ReplaceAll,
}

/// What all entries of a codebook have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The stack in which it stands.
    #[serde(default)]
    pub stack: Stack,
    /// The layer whose MLP it stands beside.
    pub layer: usize,
    /// How entries grow.
    pub eps_expand: Expansion,
    /// What values replace.
    pub replacement: Replacement,
}

impl Rules {
    /// The place `module` of the layer.
    pub(crate) fn site(&self, module: Module) -> Site {
        Site::in_stack(self.stack, self.layer, module)
    }

    /// Checks that a model has the layer.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming the layer and the stack's depth.
    pub(crate) fn check_layer(&self, spec: &ModelSpec) -> Result<()> {
        let Self { stack, layer, .. } = *self;
        match spec.n_layers_of(stack) {
            _ if stack == Stack::Decoder => spec.check_layer(layer),
            0 => Err(Error::hparams(format!("the codebook stands in the {stack}, and {} has none", spec.name))),
            n_layers if layer >= n_layers => {
                Err(Error::hparams(format!("layer {layer} is out of range: the {stack} of {} has layers 0 to {}", spec.name, n_layers - 1)))
            }
            _ => Ok(()),
        }
    }
}

/// What one edit brings into a codebook.
#[derive(Clone, Debug, PartialEq)]
pub struct Insertion {
    /// Whose it is.
    pub id: EditId,
    /// The answer; entries of the same answer are joined.
    pub label: String,
    /// Input of the MLP's out-projection at the prompt's last token: `[d_mlp]`.
    pub key: Vec<f32>,
    /// What the MLP is to give there: `[d_model]`.
    pub value: Vec<f32>,
    /// Radius of an entry of its own, before any other is near; in the units of the keys.
    pub radius: f32,
}

/// A ball of keys with one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its centre: `[d_mlp]`.
    pub key: Vec<f32>,
    /// How far from the centre it reaches.
    pub radius: f32,
    /// Its answer.
    pub label: String,
    /// What the MLP gives inside of it: `[d_model]`.
    pub value: Vec<f32>,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// An entry of its own, far from all others.
    Added,
    /// An entry of the same answer reaches it (now).
    Joined,
    /// An entry of its own beside one of another answer, both halved so that they do not overlap.
    Split,
    /// The entry of the same prompt has a new answer.
    Replaced,
}

/// The edits beside one MLP.
///
/// It keeps what was inserted, in order, and derives its entries from that alone. So two codebooks are merged by inserting the one
/// behind the other, and an edit is [rolled back](Self::roll_back) as if it had never been made.
///
/// # Source
///
/// Hartvigsen et al. 2023, algorithm 1. What it leaves open: the same prompt with another answer replaces the answer, since no
/// radius could keep the two apart; and a conflict never widens a ball.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebook {
    rules: Rules,
    insertions: Vec<Insertion>,
    entries: Vec<Entry>,
}

impl Codebook {
    /// A codebook without edits.
    pub fn new(rules: Rules) -> Self {
        Self { rules, insertions: Vec::new(), entries: Vec::new() }
    }

    /// What all entries have in common.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// What was inserted, in order.
    pub fn insertions(&self) -> &[Insertion] {
        &self.insertions
    }

    /// The entries that follow from it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Inserts an edit behind those before it.
    pub fn insert(&mut self, insertion: Insertion) -> Outcome {
        let outcome = self.take_in(&insertion);
        self.insertions.push(insertion);
        outcome
    }

    /// Inserts all edits of `later`; of the rules its own are kept.
    pub fn merge(&mut self, later: &Self) {
        for insertion in &later.insertions {
            self.insert(insertion.clone());
        }
    }

    /// Takes the edits of `id` out, as if they had never been made. Gives their number.
    pub fn roll_back(&mut self, id: &EditId) -> usize {
        let before = self.insertions.len();
        let kept: Vec<usize> = (0..before).filter(|place| self.insertions[*place].id != *id).collect();
        self.keep(&kept);
        before - self.insertions.len()
    }

    /// Keeps the insertions at the places `kept` alone.
    pub(crate) fn keep(&mut self, kept: &[usize]) {
        self.entries.clear();
        let insertions = std::mem::take(&mut self.insertions);
        for (place, insertion) in insertions.into_iter().enumerate() {
            if kept.contains(&place) {
                self.insert(insertion);
            }
        }
    }

    /// The entry that answers for `key`, if any reaches it: the nearest decides.
    pub fn lookup(&self, key: &[f32]) -> Option<&Entry> {
        let (index, distance) = self.nearest(key)?;
        self.entries.get(index).filter(|entry| distance <= f64::from(entry.radius))
    }

    fn nearest(&self, key: &[f32]) -> Option<(usize, f64)> {
        let distances = self.entries.iter().map(|entry| distance(&entry.key, key)).enumerate();
        distances.min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    fn take_in(&mut self, new: &Insertion) -> Outcome {
        let own = Entry { key: new.key.clone(), radius: new.radius, label: new.label.clone(), value: new.value.clone() };
        let Some((index, distance)) = self.nearest(&new.key) else {
            self.entries.push(own);
            return Outcome::Added;
        };
        let near = &mut self.entries[index];
        if distance > f64::from(near.radius) + f64::from(new.radius) {
            self.entries.push(own);
            return Outcome::Added;
        }
        let is_same_key = distance <= SAME_KEY * norm(&new.key);
        if near.label == new.label {
            // A prompt that is edited anew has reasons for it: its later value is the better one.
            if is_same_key {
                near.value.clone_from(&new.value);
            } else if distance > f64::from(near.radius) {
                near.radius = rounded_up(distance);
                if self.rules.eps_expand == Expansion::MovingAverage {
                    near.key.iter_mut().zip(&new.key).for_each(|(old, new)| *old = (*old + new) / 2.0);
                }
            }
            return Outcome::Joined;
        }
        if is_same_key {
            near.label.clone_from(&new.label);
            near.value.clone_from(&new.value);
            return Outcome::Replaced;
        }
        let half = rounded_down(distance / 2.0);
        near.radius = near.radius.min(half);
        self.entries.push(Entry { radius: own.radius.min(half), ..own });
        Outcome::Split
    }
}

/// So that a ball that was widened to a key reaches it, whatever the rounding.
fn rounded_up(distance: f64) -> f32 {
    (distance * (1.0 + 1e-6)) as f32
}

/// So that balls which are to stay apart do.
fn rounded_down(distance: f64) -> f32 {
    (distance * (1.0 - 1e-6)) as f32
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

/// ‖values‖
pub(crate) fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}
