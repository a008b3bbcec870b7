use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::Tensor;
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{LanguageModel, Result};

use crate::edited_pass::EditedPass;
use crate::factors::WeightFactors;
use crate::inner::InnerWeights;
use crate::losses::{Likelihood, divergence, likelihoods, log_probs, same_best};
use crate::network::Network;
use crate::rows::Rows;

/// The rows of one edit to practise on.
#[derive(Clone, Debug)]
pub struct EditExample {
    /// The facts that define it, with their new targets; at least one.
    pub inner: Vec<TargetTokens>,
    /// Texts in which the new targets are to be said; at least one.
    pub outer: Vec<TargetTokens>,
    /// Texts that are to stay as they are. Either all examples of a batch have some, or none has.
    pub loc: Vec<TargetTokens>,
    /// How many of them, the first ones, are near the edit: same template, other subject.
    pub near: usize,
}

/// Weights of the loss, and how edits are added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LossSettings {
    /// Weight of the edited texts.
    pub(crate) cedit: f64,
    /// Weight of the texts that stay.
    pub(crate) cloc: f64,
    /// Factor of the rates: −1 to descend along the gradient, times the scale of the settings.
    pub(crate) strength: f64,
    /// Whether the distributions at all positions are held, not only those that predict the answer.
    pub(crate) all_positions: bool,
}

/// What edits do to their rows. Numbers are one for each edit.
#[derive(Default)]
pub(crate) struct Measured {
    /// Of the outer rows, with the edit.
    pub(crate) outer: Vec<Likelihood>,
    /// Of the inner rows, with the edit; only measured outside of training.
    pub(crate) inner: Vec<Likelihood>,
    /// KL divergence of the rows that stay.
    pub(crate) kl: Vec<f64>,
    /// Of the answers of the rows that stay, before and with the edit.
    pub(crate) pre: Vec<Likelihood>,
    pub(crate) post: Vec<Likelihood>,
    /// Rows that keep every most probable token of their answer, and all rows: near ones, others.
    pub(crate) kept_near: (usize, usize),
    pub(crate) kept_far: (usize, usize),
    /// Gradients of the mean loss by the network's parameters.
    pub(crate) gradients: BTreeMap<String, Tensor<2>>,
}

impl Measured {
    /// Joins the results of edits behind these.
    pub(crate) fn append(&mut self, other: Self) {
        self.outer.extend(other.outer);
        self.inner.extend(other.inner);
        self.kl.extend(other.kl);
        self.pre.extend(other.pre);
        self.post.extend(other.post);
        for (mine, others) in [(&mut self.kept_near, other.kept_near), (&mut self.kept_far, other.kept_far)] {
            *mine = (mine.0 + others.0, mine.1 + others.1);
        }
        for (name, gradient) in other.gradients {
            let sum = match self.gradients.remove(&name) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.gradients.insert(name, sum);
        }
    }
}

/// Edits the model by each of `examples`, whose normalised factors are given, and measures their rows: the NLL of outer rows, the KL divergence
/// of the others. With `share`, the gradient of the sum over edits of `share` times the loss of an edit comes with it.
///
/// # Source
///
/// Mitchell et al. 2022, equations 4a and 4b. The model's first-order derivatives alone are needed: the factors are constants.
pub(crate) fn measure(
    model: &dyn LanguageModel,
    inner: &InnerWeights,
    network: &Network,
    factors: &[WeightFactors],
    examples: &[EditExample],
    settings: LossSettings,
    share: Option<f64>,
) -> Result<Measured> {
    let network = if share.is_some() { network.tracked() } else { network.clone() };
    let device = model.device();
    let changes = factors.iter().enumerate().map(|(weight, factors)| network.transform(weight, factors, settings.strength, &device));
    let changes = changes.collect::<Result<Vec<_>>>()?;
    let laid = Laid::new(examples, share.is_none());
    let rows = Rows::new(model, inner, &laid.rows)?;
    let outer = rows.targets(laid.outer.iter().copied());
    let again = rows.targets(laid.inner.iter().copied());
    let loc = if settings.all_positions { rows.all_positions(laid.loc.iter().copied()) } else { rows.targets(laid.loc.iter().copied()) };
    let positions: Vec<usize> = [&outer.positions, &again.positions, &loc.positions].into_iter().flatten().copied().collect();
    let (of_outer, of_again) = (0..outer.positions.len(), outer.positions.len()..outer.positions.len() + again.positions.len());
    let of_loc = of_again.end..positions.len();

    let logits = rows.logits(model, &mut EditedPass { inner, changes: &changes, rows: &rows }, &positions)?;
    let now = log_probs(&logits);
    let part = |range: &Range<usize>| now.clone().narrow(0, range.start, range.len());
    let weights = |weight: f64| vec![weight * share.unwrap_or(0.0); examples.len()];
    let mut measured = Measured::default();
    let mut slopes = Vec::new();
    if !of_outer.is_empty() {
        let (likelihood, slope) = likelihoods(&part(&of_outer), &outer, &weights(settings.cedit))?;
        measured.outer = likelihood;
        slopes.push(slope);
    }
    if !of_again.is_empty() {
        measured.inner = likelihoods(&part(&of_again), &again, &[])?.0;
    }
    if !of_loc.is_empty() {
        let before = log_probs(&rows.logits(model, &mut (), &loc.positions)?);
        let after = part(&of_loc);
        let moved = divergence(&before, &after, &loc, &weights(settings.cloc))?;
        measured.kl = moved.means;
        slopes.push(moved.slope);
        laid.count_kept(&same_best(&before, &after)?, &loc, &mut measured);
        (measured.pre, measured.post) = (answers(&before, &loc)?, answers(&after, &loc)?);
    }
    if share.is_some() && logits.is_autodiff() && !slopes.is_empty() {
        let gradients = (logits * Tensor::from_inner(Tensor::cat(slopes, 0))).sum().backward();
        for (name, parameter) in network.parameters() {
            if let Some(gradient) = parameter.grad(&gradients) {
                measured.gradients.insert(name, gradient);
            }
        }
    }
    Ok(measured)
}

/// Likelihood of the answers among the positions.
fn answers(log_probs: &Tensor<2>, targets: &crate::rows::Targets) -> Result<Vec<Likelihood>> {
    let is_answer = |place: &usize| targets.ids.get(*place).is_some_and(Option::is_some);
    if (0..targets.ids.len()).all(|place| is_answer(&place)) {
        return Ok(likelihoods(log_probs, targets, &[])?.0);
    }
    let places: Vec<usize> = (0..targets.ids.len()).filter(is_answer).collect();
    let pick = |values: &[usize]| places.iter().filter_map(|place| values.get(*place).copied()).collect::<Vec<usize>>();
    let answers = crate::rows::Targets {
        positions: pick(&targets.positions),
        ids: places.iter().filter_map(|place| targets.ids.get(*place).copied()).collect(),
        rows: pick(&targets.rows),
        edits: pick(&targets.edits),
        edit_count: targets.edit_count,
    };
    let index: Vec<i64> = places.iter().map(|place| *place as i64).collect();
    let count = index.len();
    let index = Tensor::<1, burn::tensor::Int>::from_data(burn::tensor::TensorData::new(index, [count]), &log_probs.device());
    Ok(likelihoods(&log_probs.clone().select(0, index), &answers, &[])?.0)
}

/// The rows of all examples, those of one edit together: outer, then inner where wanted, then those that stay.
struct Laid<'a> {
    rows: Vec<(usize, &'a TargetTokens)>,
    outer: Vec<usize>,
    inner: Vec<usize>,
    loc: Vec<usize>,
    /// Of each row that stays, whether it is near.
    near: Vec<bool>,
}

impl<'a> Laid<'a> {
    fn new(examples: &'a [EditExample], with_inner: bool) -> Self {
        let mut laid = Self { rows: Vec::new(), outer: Vec::new(), inner: Vec::new(), loc: Vec::new(), near: Vec::new() };
        for (edit, example) in examples.iter().enumerate() {
            let mut put = |rows: &'a [TargetTokens], places: &mut Vec<usize>| {
                places.extend(laid.rows.len()..laid.rows.len() + rows.len());
                laid.rows.extend(rows.iter().map(|row| (edit, row)));
            };
            put(&example.outer, &mut laid.outer);
            if with_inner {
                put(&example.inner, &mut laid.inner);
            }
            put(&example.loc, &mut laid.loc);
            laid.near.extend((0..example.loc.len()).map(|place| place < example.near));
        }
        laid
    }

    fn count_kept(&self, same: &[bool], targets: &crate::rows::Targets, measured: &mut Measured) {
        let mut kept = vec![true; self.near.len()];
        for ((row, id), same) in targets.rows.iter().zip(&targets.ids).zip(same) {
            if let Some(kept) = kept.get_mut(*row).filter(|_| id.is_some()) {
                *kept &= same;
            }
        }
        for (near, kept) in self.near.iter().zip(kept) {
            let count = if *near { &mut measured.kept_near } else { &mut measured.kept_far };
            *count = (count.0 + usize::from(kept), count.1 + 1);
        }
    }
}
