//! Facts for methods that learn to edit: some to practise on, some to choose settings by, some to measure.

use std::collections::BTreeMap;

use easyedit_core::{EditRequest, EvaluationPrompt};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::{Fact, World};

/// Facts that measure, and facts that settings are chosen by. The others are practised on.
const HELD_OUT_FACTS: usize = 60;
/// Facts of other relations whose answers are to stay, per record.
const UNRELATED: usize = 2;

/// Records of disjoint facts.
#[derive(Clone, Debug, PartialEq)]
pub struct Practice {
    /// Facts to practise on: a record for each wording that the models were trained on. Locality: facts of this set with the same relation
    /// and object, and unrelated ones.
    pub train: Vec<EditRequest>,
    /// Facts by which settings are chosen, each with a paraphrase that no model has seen.
    pub val: Vec<EditRequest>,
    /// Facts that figures are measured on.
    pub test: Vec<EditRequest>,
}

impl World {
    /// The facts of [`requests`](World::requests), shared out: the first measure, the next choose, the others are practised on.
    pub fn practice(&self) -> Practice {
        let mut held_out = self.requests();
        let others = held_out.split_off(2 * HELD_OUT_FACTS);
        held_out.iter_mut().for_each(|request| request.portability.clear());
        let val = held_out.split_off(HELD_OUT_FACTS);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0xF00D);
        let facts: Vec<&Fact> =
            others.iter().filter_map(|request| self.facts().iter().find(|fact| fact.prompt == request.prompt)).collect();
        let mut train = Vec::new();
        for (fact, request) in facts.iter().zip(others.iter()) {
            let neighbours: Vec<&&Fact> = facts
                .iter()
                .filter(|other| other.relation == fact.relation && other.object == fact.object && other.subject != fact.subject)
                .collect();
            let unrelated: Vec<&&Fact> =
                facts.iter().filter(|other| other.relation != fact.relation && other.subject != fact.subject).collect();
            for wording in &fact.trained {
                let stays = |facts: Vec<&&&Fact>, rng: &mut ChaCha8Rng| {
                    let prompt = |fact: &Fact, rng: &mut ChaCha8Rng| fact.trained.choose(rng).unwrap_or(&fact.prompt).clone();
                    let stay = |fact: &&&Fact| EvaluationPrompt::new(prompt(fact, rng), fact.object.clone());
                    facts.into_iter().map(stay).collect::<Vec<_>>()
                };
                let mut locality = BTreeMap::new();
                for (name, facts, count) in [("neighborhood", &neighbours, neighbours.len().min(3)), ("unrelated", &unrelated, UNRELATED)] {
                    let chosen: Vec<&&&Fact> = facts.choose_multiple(&mut rng, count).collect();
                    if !chosen.is_empty() {
                        locality.insert(name.to_owned(), stays(chosen, &mut rng));
                    }
                }
                train.push(EditRequest {
                    case_id: train.len(),
                    rephrase_prompts: vec![wording.clone()],
                    locality,
                    portability: BTreeMap::new(),
                    ..request.clone()
                });
            }
        }
        Practice { train, val, test: held_out }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_fact_is_in_two_sets_and_none_that_is_held_out_stays_in_training() {
        let Practice { train, val, test } = World::new(crate::SEED).practice();
        let prompts = |records: &[EditRequest]| records.iter().map(|record| record.prompt.clone()).collect::<BTreeSet<_>>();
        let (train_prompts, val_prompts, test_prompts) = (prompts(&train), prompts(&val), prompts(&test));
        assert_eq!((train_prompts.len(), val_prompts.len(), test_prompts.len()), (300, 60, 60));
        assert!(
            train_prompts.is_disjoint(&val_prompts) && train_prompts.is_disjoint(&test_prompts) && val_prompts.is_disjoint(&test_prompts)
        );
        let held_out: Vec<&EditRequest> = val.iter().chain(&test).collect();
        let subjects: BTreeSet<&str> = train.iter().filter_map(|record| record.subject.as_deref()).collect();
        for stays in train.iter().flat_map(|record| record.locality.values().flatten()) {
            let of_training = subjects.iter().any(|subject| stays.prompt.contains(subject));
            assert!(of_training && held_out.iter().all(|record| record.prompt != stays.prompt), "{stays:?}");
        }
        assert!(train.iter().filter(|record| record.locality.contains_key("neighborhood")).count() > train.len() / 2);
    }
}
