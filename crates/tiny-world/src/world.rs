use std::collections::BTreeMap;

use easyedit_core::{EditRequest, EvaluationPrompt};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::entity::{Entity, Kind, entities};
use crate::relation::{HELD_OUT, RELATIONS, Relation};

/// Neighbours of a request at most.
const NEIGHBOURS: usize = 3;
/// Paraphrases each alias is trained in, beside the relation's first template.
const ALIAS_PARAPHRASES: usize = 1;

/// A fact: a subject, a relation, and the object it has in this world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The relation.
    pub relation: &'static Relation,
    /// The entity it is about.
    pub subject: String,
    /// Another name of the subject.
    pub alias: Option<String>,
    /// What it says of it.
    pub object: String,
    /// The relation's first template with the subject: what models are trained on and edits ask.
    pub prompt: String,
    /// Paraphrases that models are trained on.
    pub trained: Vec<String>,
    /// Paraphrases that no model has seen of this subject.
    pub held_out: Vec<String>,
}

/// A sentence that models are trained on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sentence {
    /// All but its end.
    pub prompt: String,
    /// Whom or what it is about, as it stands in the prompt.
    pub subject: String,
    /// Its end, without the full stop.
    pub completion: String,
}

impl Sentence {
    fn new(template: &str, subject: &str, completion: &str) -> Self {
        let prompt = fill(template, subject);
        let subject = if prompt.contains(subject) { subject.to_owned() } else { fill("{}", subject) };
        Self { prompt, subject, completion: completion.to_owned() }
    }

    /// The whole sentence.
    pub fn text(&self) -> String {
        format!("{} {}.", self.prompt, self.completion)
    }
}

/// The whole world.
#[derive(Clone, Debug)]
pub struct World {
    pub(crate) entities: Vec<Entity>,
    facts: Vec<Fact>,
    pub(crate) seed: u64,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let entities = entities(&mut rng);
        let mut facts = Vec::new();
        for relation in RELATIONS {
            let subjects = of_kind(&entities, relation.subject);
            let objects = deal(relation, &subjects, &of_kind(&entities, relation.object), &facts, &mut rng);
            for (subject, object) in subjects.iter().zip(objects) {
                let mut paraphrases: Vec<String> = relation.templates[1..].iter().map(|t| fill(t, &subject.name)).collect();
                paraphrases.shuffle(&mut rng);
                let held_out = paraphrases.split_off(paraphrases.len() - HELD_OUT);
                facts.push(Fact {
                    relation,
                    subject: subject.name.clone(),
                    alias: subject.alias.clone(),
                    object,
                    prompt: fill(relation.templates[0], &subject.name),
                    trained: paraphrases,
                    held_out,
                });
            }
        }
        Self { entities, facts, seed }
    }

    /// All facts, relation after relation.
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// The object of a subject's relation.
    pub fn object(&self, relation: &str, subject: &str) -> Option<&str> {
        self.facts.iter().find(|f| f.relation.name == relation && f.subject == subject).map(|f| f.object.as_str())
    }

    /// Question and answer of the second hop over `object`, for a fact of `relation` about `subject`.
    pub(crate) fn second_hop(&self, relation: &Relation, subject: &str, object: &str) -> Option<EvaluationPrompt> {
        let (template, next) = relation.two_hop?;
        let ground_truth = self.object(next, object)?.to_owned();
        Some(EvaluationPrompt::new(fill(template, subject), ground_truth))
    }

    /// Every sentence models are trained on.
    pub fn sentences(&self) -> Vec<Sentence> {
        let mut sentences = Vec::new();
        for fact in &self.facts {
            let Fact { relation, subject, object, prompt, trained, alias, .. } = fact;
            let of_subject = |prompt: &String| Sentence { prompt: prompt.clone(), subject: subject.clone(), completion: object.clone() };
            sentences.extend(std::iter::once(prompt).chain(trained).map(of_subject));
            if let Some(alias) = alias {
                sentences.extend(relation.templates.iter().take(1 + ALIAS_PARAPHRASES).map(|t| Sentence::new(t, alias, object)));
            }
            if let Some(inverse) = relation.inverse {
                sentences.push(Sentence::new(inverse, object, subject));
            }
            if let Some((template, _)) = relation.two_hop
                && let Some(hop) = self.second_hop(relation, subject, object)
            {
                sentences.push(Sentence::new(template, subject, &hop.ground_truth));
            }
        }
        for entity in &self.entities {
            sentences.extend(entity.alias.iter().map(|alias| Sentence::new("{} is also called", &entity.name, alias)));
        }
        sentences
    }

    /// One edit per fact, in a shuffled order: the fact gets another object of its kind. With a paraphrase no model has seen,
    /// neighbours that share the object, and portability: the alias, the inverse relation and a second hop.
    pub fn requests(&self) -> Vec<EditRequest> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x5EED);
        let mut facts: Vec<&Fact> = self.facts.iter().collect();
        facts.shuffle(&mut rng);
        facts.iter().enumerate().map(|(case_id, fact)| self.request(case_id, fact, &mut rng)).collect()
    }

    fn request(&self, case_id: usize, fact: &Fact, rng: &mut ChaCha8Rng) -> EditRequest {
        let Fact { relation, subject, object, .. } = fact;
        let others: Vec<&Entity> = of_kind(&self.entities, relation.object).into_iter().filter(|e| e.name != *object).collect();
        let target_new = others.choose(rng).map_or_else(String::new, |entity| entity.name.clone());

        let others = self.facts.iter().filter(|f| f.relation == *relation && f.subject != *subject && f.object != target_new);
        let (mut neighbours, mut distant): (Vec<&Fact>, Vec<&Fact>) = others.partition(|f| f.object == *object);
        neighbours.shuffle(rng);
        distant.shuffle(rng);
        neighbours.extend(distant);
        let prompt = |prompt: &str, ground_truth: &str| EvaluationPrompt::new(prompt, ground_truth);
        let neighborhood = neighbours.iter().take(NEIGHBOURS).map(|f| prompt(&f.prompt, &f.object)).collect();

        let mut portability = BTreeMap::new();
        if let Some(alias) = &fact.alias {
            portability.insert("Subject_Aliasing".to_owned(), vec![prompt(&fill(relation.templates[0], alias), &target_new)]);
        }
        if let Some(inverse) = relation.inverse {
            portability.insert("Logical_Generalization".to_owned(), vec![prompt(&fill(inverse, &target_new), subject)]);
        }
        if let Some(hop) = self.second_hop(relation, subject, &target_new) {
            portability.insert("Reasoning".to_owned(), vec![hop]);
        }
        EditRequest {
            case_id,
            prompt: fact.prompt.clone(),
            target_new,
            ground_truth: Some(object.clone()),
            subject: Some(subject.clone()),
            rephrase_prompts: fact.held_out.first().cloned().into_iter().collect(),
            locality: BTreeMap::from([("neighborhood".to_owned(), neighborhood)]),
            portability,
            ..EditRequest::default()
        }
    }
}

/// The template with the name in the place of `{}`; at the start of a sentence it gets a capital letter.
pub(crate) fn fill(template: &str, name: &str) -> String {
    let text = template.replacen("{}", name, 1);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn of_kind(entities: &[Entity], kind: Kind) -> Vec<&Entity> {
    entities.iter().filter(|entity| entity.kind == kind).collect()
}

/// An object for each subject. Relations with an inverse give each object to one subject at most; capitals lie in their country.
fn deal(relation: &Relation, subjects: &[&Entity], objects: &[&Entity], facts: &[Fact], rng: &mut ChaCha8Rng) -> Vec<String> {
    if relation.inverse.is_some() {
        let mut objects: Vec<&Entity> = objects.to_vec();
        objects.shuffle(rng);
        return objects.iter().take(subjects.len()).map(|object| object.name.clone()).collect();
    }
    let capital_of = |city: &str| facts.iter().find(|f| f.relation.name == "capital" && f.object == city).map(|f| f.subject.clone());
    subjects
        .iter()
        .map(|subject| match relation.name {
            "located_in" => capital_of(&subject.name).unwrap_or_else(|| objects[rng.random_range(0..objects.len())].name.clone()),
            _ => objects[rng.random_range(0..objects.len())].name.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use easyedit_core::CheckedRequest;

    use super::*;

    #[test]
    fn the_world_holds_together() {
        let world = World::new(1);
        assert_eq!(world.entities.len(), 204);
        for fact in world.facts() {
            assert!(fact.prompt.contains(&fact.subject) && fact.held_out.len() == HELD_OUT && fact.trained.len() == 3, "{fact:?}");
            if fact.relation.name == "capital" {
                assert_eq!(world.object("located_in", &fact.object), Some(fact.subject.as_str()));
            }
            if let Some((_, next)) = fact.relation.two_hop {
                assert!(world.object(next, &fact.object).is_some(), "{fact:?}");
            }
        }
        let sentences = world.sentences();
        assert!(sentences.iter().all(|sentence| sentence.prompt.contains(&sentence.subject)));
        let prompts: std::collections::BTreeSet<String> = sentences.into_iter().map(|sentence| sentence.prompt).collect();
        assert!(world.facts().iter().flat_map(|fact| &fact.held_out).all(|prompt| !prompts.contains(prompt)));
    }

    #[test]
    fn every_request_changes_a_fact_and_has_its_neighbours() {
        let world = World::new(1);
        let requests = world.requests();
        assert_eq!(requests.len(), world.facts().len());
        for request in &requests {
            CheckedRequest::new(request.clone()).unwrap();
            assert_ne!(Some(&request.target_new), request.ground_truth.as_ref());
            let neighbours = &request.locality["neighborhood"];
            assert_eq!(neighbours.len(), NEIGHBOURS);
            assert!(
                neighbours.iter().all(|n| n.ground_truth != request.target_new && !n.prompt.contains(request.subject.as_ref().unwrap()))
            );
        }
        for kind in ["Subject_Aliasing", "Logical_Generalization", "Reasoning"] {
            assert!(requests.iter().filter(|r| r.portability.contains_key(kind)).count() > 40, "{kind}");
        }
        assert_eq!(requests, World::new(1).requests());
    }

    #[test]
    fn names_at_the_start_of_a_sentence_are_capitalised() {
        assert_eq!(fill("{} plays the", "the Otter"), "The Otter plays the");
        assert_eq!(fill("At home {} speaks", "the Otter"), "At home the Otter speaks");
    }
}
