//! Facts for methods that learn to edit: some to practise on, some to choose settings by, some to measure.

use std::collections::{BTreeMap, BTreeSet};

use easyedit_core::{EditRequest, EvaluationPrompt};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::world::fill;
use crate::{Fact, World};

/// Facts that measure, at least, and facts that settings are chosen by. The others are practised on.
const HELD_OUT_FACTS: usize = 60;
/// Texts that stay, per record: facts with the same relation and object, facts of the same subject, others.
const STAYING: [(&str, usize); 3] = [("neighborhood", 3), ("same_subject", 2), ("unrelated", 2)];
/// Invented subjects for each fact of a subject with two names.
const INVENTED: usize = 1;
/// Wordings of an invented subject.
const INVENTED_WORDINGS: usize = 2;

/// Records of disjoint sets of subjects.
#[derive(Clone, Debug, PartialEq)]
pub struct Practice {
    /// Facts to practise on: a record for each wording that the models were trained on, and records of invented subjects, whose names are put
    /// together from two of the world's. Locality: facts of this set only.
    pub train: Vec<EditRequest>,
    /// Facts by which settings are chosen, each with a paraphrase that no model has seen.
    pub val: Vec<EditRequest>,
    /// Facts that figures are measured on.
    pub test: Vec<EditRequest>,
}

impl World {
    /// The facts, shared out by their subjects: all facts of one are in one set.
    pub fn practice(&self) -> Practice {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0xF00D);
        let mut rest = self.requests();
        let mut take = || -> Vec<EditRequest> {
            let mut taken = Vec::new();
            while taken.len() < HELD_OUT_FACTS && !rest.is_empty() {
                let subject = rest.first().and_then(|request| request.subject.clone());
                let (of_subject, others) = std::mem::take(&mut rest).into_iter().partition(|request| request.subject == subject);
                rest = others;
                taken.extend::<Vec<EditRequest>>(of_subject);
            }
            taken
        };
        let (mut test, mut val) = (take(), take());
        let all: Vec<&Fact> = self.facts().iter().collect();
        for request in test.iter_mut().chain(&mut val) {
            request.portability.clear();
            if let Some(fact) = fact_of(&all, request) {
                // The neighbours stay as they are in the requests.
                for (name, staying) in stays(fact, &all, &mut rng).into_iter().filter(|(name, _)| name != STAYING[0].0) {
                    request.locality.insert(name, staying);
                }
            }
        }
        let prompts: BTreeSet<&str> = rest.iter().map(|request| request.prompt.as_str()).collect();
        let known: Vec<&Fact> = self.facts().iter().filter(|fact| prompts.contains(fact.prompt.as_str())).collect();
        let mut train = Vec::new();
        for request in &rest {
            let Some(fact) = fact_of(&known, request) else { continue };
            for (number, wording) in fact.trained.iter().enumerate() {
                // One record says what stays; those of one prompt count as one fact.
                let locality = if number == 0 { stays(fact, &known, &mut rng) } else { BTreeMap::new() };
                let rephrase_prompts = vec![wording.clone()];
                train.push(EditRequest { rephrase_prompts, locality, portability: BTreeMap::new(), ..request.clone() });
            }
        }
        for request in &rest {
            for _ in 0..INVENTED {
                train.extend(fact_of(&known, request).map(|fact| self.invented(fact, request, &known, &mut rng)).unwrap_or_default());
            }
        }
        train.iter_mut().enumerate().for_each(|(case_id, request)| request.case_id = case_id);
        Practice { train, val, test }
    }

    /// Records like `request` about somebody who has the first name of its subject and the last name of another. The facts of both stay.
    fn invented(&self, fact: &Fact, request: &EditRequest, known: &[&Fact], rng: &mut ChaCha8Rng) -> Vec<EditRequest> {
        let with_two_names: Vec<&&Fact> =
            known.iter().filter(|other| other.relation == fact.relation && other.subject.split(' ').count() == 2).collect();
        let (Some((first, _)), Some(other)) = (fact.subject.split_once(' '), with_two_names.choose(rng)) else { return Vec::new() };
        let Some((_, last)) = other.subject.split_once(' ') else { return Vec::new() };
        let subject = format!("{first} {last}");
        if first.contains(' ') || last.contains(' ') || self.entities.iter().any(|entity| entity.name == subject) {
            return Vec::new();
        }
        let [prompt, wordings @ ..] = fact.relation.templates else { return Vec::new() };
        let staying = [fact, other].map(|fact| EvaluationPrompt::new(&fact.prompt, &fact.object));
        let mut locality = BTreeMap::from([("same_name".to_owned(), staying.to_vec())]);
        let wordings: Vec<&&str> = wordings.choose_multiple(rng, INVENTED_WORDINGS).collect();
        let record = |wording: &&&str| EditRequest {
            case_id: 0,
            prompt: fill(prompt, &subject),
            target_new: request.target_new.clone(),
            ground_truth: None,
            subject: Some(subject.clone()),
            rephrase_prompts: vec![fill(wording, &subject)],
            locality: std::mem::take(&mut locality),
            portability: BTreeMap::new(),
            ..EditRequest::default()
        };
        wordings.iter().map(record).collect()
    }
}

fn fact_of<'a>(facts: &[&'a Fact], request: &EditRequest) -> Option<&'a Fact> {
    facts.iter().find(|fact| fact.prompt == request.prompt).copied()
}

/// Facts among `known` that an edit of `fact` is to leave as they are, in one of their wordings.
fn stays(fact: &Fact, known: &[&Fact], rng: &mut ChaCha8Rng) -> BTreeMap<String, Vec<EvaluationPrompt>> {
    let kind = |other: &Fact| match (other.relation == fact.relation, other.subject == fact.subject) {
        (true, false) if other.object == fact.object => Some(STAYING[0].0),
        (false, true) => Some(STAYING[1].0),
        (false, false) => Some(STAYING[2].0),
        _ => None,
    };
    let mut staying = BTreeMap::new();
    for (name, count) in STAYING {
        let facts: Vec<&&Fact> = known.iter().filter(|other| kind(other) == Some(name)).collect();
        let chosen: Vec<&&Fact> = facts.choose_multiple(rng, count).copied().collect();
        let texts = chosen.into_iter().map(|fact| {
            let prompt = fact.trained.choose(rng).unwrap_or(&fact.prompt).clone();
            EvaluationPrompt::new(prompt, &fact.object)
        });
        let texts: Vec<EvaluationPrompt> = texts.collect();
        if !texts.is_empty() {
            staying.insert(name.to_owned(), texts);
        }
    }
    staying
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_subject_is_in_two_sets_and_nothing_that_is_held_out_is_practised_on() {
        let world = World::new(crate::SEED);
        let Practice { train, val, test } = world.practice();
        let subjects = |records: &[EditRequest]| records.iter().filter_map(|record| record.subject.clone()).collect::<BTreeSet<_>>();
        let (train_subjects, val_subjects, test_subjects) = (subjects(&train), subjects(&val), subjects(&test));
        assert!(train_subjects.is_disjoint(&val_subjects) && train_subjects.is_disjoint(&test_subjects));
        assert!(val_subjects.is_disjoint(&test_subjects) && val.len() >= 60 && test.len() >= 60);
        let of_sets =
            |prompt: &str, sets: &[&BTreeSet<String>]| sets.iter().any(|set| set.iter().any(|subject| prompt.contains(subject.as_str())));
        for text in train.iter().flat_map(|record| record.locality.values().flatten()) {
            assert!(of_sets(&text.prompt, &[&train_subjects]) && !of_sets(&text.prompt, &[&val_subjects, &test_subjects]), "{text:?}");
        }
        let real: BTreeSet<&str> = world.facts().iter().map(|fact| fact.subject.as_str()).collect();
        let invented = train.iter().filter(|record| record.subject.as_deref().is_some_and(|subject| !real.contains(subject)));
        assert!(invented.count() > 100);
        assert!(test.iter().all(|record| record.locality["unrelated"].len() == 2 && record.locality.contains_key("neighborhood")));
    }
}
