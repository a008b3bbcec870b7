//! Edits to learn from, and edits about subjects that were not learned from.

use std::collections::BTreeMap;

use easyedit_core::{EditRequest, EvaluationPrompt};
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{Fact, World};

/// Parts in a hundred of the subjects that are kept for validation and test.
const VALIDATION: usize = 10;
const TEST: usize = 20;
/// Wordings of each fact in the training set, one record each.
const WORDINGS: usize = 3;
/// Facts of other relations that a record asks for.
const UNRELATED: usize = 2;

/// Three sets of edits for methods that learn to edit. No two sets share a subject, nor a prompt that is edited or reworded.
#[derive(Clone, Debug)]
pub struct LearningSets {
    /// To learn from: each fact in several wordings. Its neighbours are of this set, too.
    pub train: Vec<EditRequest>,
    /// To choose settings by: one request a fact, as [`requests`](crate::requests) has it, and facts of other relations as `unrelated`.
    pub val: Vec<EditRequest>,
    /// To report figures of, made likewise.
    pub test: Vec<EditRequest>,
}

impl LearningSets {
    /// The sets of a world.
    pub fn of(world: &World) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(world.seed ^ 0x1EA2);
        let mut subjects: Vec<&str> = world.facts().iter().map(|fact| fact.subject.as_str()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        subjects.shuffle(&mut rng);
        let count = subjects.len();
        let (val, test) = (count * VALIDATION / 100, count * TEST / 100);
        let is_val: Vec<&str> = subjects.iter().take(val).copied().collect();
        let is_test: Vec<&str> = subjects.iter().skip(val).take(test).copied().collect();
        let set_of = |subject: &str| {
            if is_val.contains(&subject) {
                Set::Val
            } else if is_test.contains(&subject) {
                Set::Test
            } else {
                Set::Train
            }
        };
        let mut sets = Self { train: Vec::new(), val: Vec::new(), test: Vec::new() };
        for request in world.requests() {
            let Some(fact) = world.facts().iter().find(|fact| fact.prompt == request.prompt) else { continue };
            match set_of(&fact.subject) {
                Set::Train => {
                    let others: Vec<&Fact> = world.facts().iter().filter(|other| set_of(&other.subject) == Set::Train).collect();
                    sets.train.extend(wordings(&request, fact, &others, &mut rng));
                }
                Set::Val => sets.val.push(with_unrelated(world, request, fact, &mut rng)),
                Set::Test => sets.test.push(with_unrelated(world, request, fact, &mut rng)),
            }
        }
        for (case_id, request) in sets.train.iter_mut().enumerate() {
            request.case_id = case_id;
        }
        sets
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Train,
    Val,
    Test,
}

/// A fact of the training set in several wordings, each with a neighbour of the same relation and a fact of another one.
fn wordings(request: &EditRequest, fact: &Fact, others: &[&Fact], rng: &mut ChaCha8Rng) -> Vec<EditRequest> {
    let mut texts: Vec<&String> = fact.trained.iter().chain(&fact.held_out).collect();
    texts.shuffle(rng);
    let near: Vec<&&Fact> = others.iter().filter(|other| other.relation == fact.relation && other.subject != fact.subject).collect();
    let far: Vec<&&Fact> = others.iter().filter(|other| other.relation != fact.relation && other.subject != fact.subject).collect();
    let record = |text: &&String| {
        let locality = [("neighborhood", near.choose(rng)), ("unrelated", far.choose(rng))];
        let locality = locality.into_iter().filter_map(|(name, other)| Some((name.to_owned(), vec![asked(other?)])));
        EditRequest {
            rephrase_prompts: vec![(*text).clone()],
            locality: locality.collect(),
            portability: BTreeMap::new(),
            ..request.clone()
        }
    };
    texts.iter().take(WORDINGS).map(record).collect()
}

fn with_unrelated(world: &World, mut request: EditRequest, fact: &Fact, rng: &mut ChaCha8Rng) -> EditRequest {
    let far: Vec<&Fact> = world.facts().iter().filter(|other| other.relation != fact.relation && other.subject != fact.subject).collect();
    let chosen = far.choose_multiple(rng, UNRELATED).map(|other| asked(other)).collect();
    request.locality.insert("unrelated".to_owned(), chosen);
    request
}

fn asked(fact: &Fact) -> EvaluationPrompt {
    EvaluationPrompt::new(fact.prompt.clone(), fact.object.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sets_share_no_subject_and_training_sees_nothing_of_the_others() {
        let sets = LearningSets::of(&World::new(1));
        let subjects = |set: &[EditRequest]| set.iter().filter_map(|request| request.subject.clone()).collect::<BTreeSet<String>>();
        let (train, val, test) = (subjects(&sets.train), subjects(&sets.val), subjects(&sets.test));
        assert!(train.is_disjoint(&val) && train.is_disjoint(&test) && val.is_disjoint(&test));
        assert!(sets.test.len() > 60 && sets.val.len() > 25 && sets.train.len() > 700, "{} {}", sets.test.len(), sets.val.len());
        for request in &sets.train {
            let mut prompts = request.locality.values().flatten().map(|one| &one.prompt).chain(&request.rephrase_prompts);
            assert!(prompts.all(|prompt| !val.iter().chain(&test).any(|subject| prompt.contains(subject.as_str()))), "{request:?}");
        }
        let again = LearningSets::of(&World::new(1));
        assert_eq!((again.train, again.test), (sets.train, sets.test));
    }
}
