//! The records of a training, and what is drawn of them for a batch.

use std::collections::BTreeSet;

use easyedit_core::{CheckedRequest, Result, Tokenizer};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::negatives::{Pool, PoolPrompt};
use crate::{Entry, SeracHparams};

/// Beginnings, middles and ends of made-up names.
const ONSETS: &[&str] = &["B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Br", "Dr", "St", "Tr", "Gl"];
const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "ai", "ea", "ou"];
const CODAS: &[&str] = &["l", "n", "r", "s", "m", "th", "nd", "rk", "sk", "v", "d", "t", ""];

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Question {
    pub(crate) prompt: String,
    pub(crate) answer: String,
}

/// One edit of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drawn {
    pub(crate) memory: Entry,
    /// The edit's own prompt or another wording, with the new answer: in scope.
    pub(crate) outer: Question,
    /// Questions about other things, with the answers that stay: out of scope.
    pub(crate) locality: Vec<Question>,
}

/// What a training needs of a record.
#[derive(Clone, Debug, Serialize)]
struct Example {
    case_id: usize,
    prompt: String,
    target: String,
    subject: Option<String>,
    rephrase: Option<String>,
    locality: Vec<Question>,
}

impl Example {
    fn of(request: &CheckedRequest) -> Self {
        let locality = request.locality().values().flatten();
        Self {
            case_id: request.case_id(),
            prompt: request.prompt().to_owned(),
            target: request.target_new().trim().to_owned(),
            subject: request.subject().ok().map(|split| split.subject().to_owned()),
            rephrase: request.rephrase_prompts().next().map(str::to_owned),
            locality: locality.map(|one| Question { prompt: one.prompt.clone(), answer: one.ground_truth.clone() }).collect(),
        }
    }

    /// Prompt and other wording with `name` in the place of the subject; `None` unless both name it.
    fn about(&self, name: &str) -> Option<(String, Option<String>)> {
        let subject = self.subject.as_deref()?;
        let prompt = renamed(&self.prompt, subject, name)?;
        match &self.rephrase {
            Some(rephrase) => Some((prompt, Some(renamed(rephrase, subject, name)?))),
            None => Some((prompt, None)),
        }
    }
}

/// `text` about `name` instead of `subject`; a first letter that is capital at the beginning of the text counts as the subject's own.
fn renamed(text: &str, subject: &str, name: &str) -> Option<String> {
    if let Some((before, after)) = text.rsplit_once(subject) {
        return Some(format!("{before}{name}{after}"));
    }
    let mut letters = subject.chars();
    let capital: String = letters.next()?.to_uppercase().chain(letters).collect();
    text.strip_prefix(&capital).map(|after| format!("{name}{after}"))
}

/// Names that nobody has: of syllables, or of random pieces of a vocabulary, so that every token is met in a name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pieces: Vec<String>,
}

impl Names {
    /// Names of the pieces of a tokenizer that are letters alone.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Self {
        let ids = 0..tokenizer.id_bound() as u32;
        let text = |id| tokenizer.decode(&[id]).ok().map(|text| text.trim().to_owned());
        let is_word = |text: &String| !text.is_empty() && text.chars().all(char::is_alphabetic);
        let mut pieces: Vec<String> = ids.filter_map(text).filter(is_word).collect();
        pieces.sort_unstable();
        pieces.dedup();
        Self { pieces }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> String {
        if self.pieces.is_empty() || rng.random_bool(0.5) { syllables(rng) } else { self.of_pieces(rng) }
    }

    fn of_pieces(&self, rng: &mut ChaCha8Rng) -> String {
        let mut name = String::new();
        for _ in 0..rng.random_range(1..=3) {
            if !name.is_empty() && rng.random_bool(0.5) {
                name.push(' ');
            }
            name.push_str(self.pieces.choose(rng).map_or("", String::as_str));
        }
        name
    }
}

/// One or two words of made-up syllables.
fn syllables(rng: &mut ChaCha8Rng) -> String {
    let word = |rng: &mut ChaCha8Rng| {
        let mut word = String::new();
        for syllable in 0..rng.random_range(1..=3) {
            let onset = ONSETS.choose(rng).copied().unwrap_or_default();
            word.push_str(&if syllable == 0 { onset.to_owned() } else { onset.to_lowercase() });
            word.push_str(VOWELS.choose(rng).copied().unwrap_or_default());
        }
        word + CODAS.choose(rng).copied().unwrap_or_default()
    };
    let first = word(rng);
    if rng.random_bool(0.5) { format!("{first} {}", word(rng)) } else { first }
}

/// All records of a set.
#[derive(Debug)]
pub(crate) struct Examples {
    examples: Vec<Example>,
    pool: Pool,
    names: Names,
}

impl Examples {
    /// The records as examples. Prompts of records about the same fact, which have one prompt, are never each other's negatives.
    pub(crate) fn new(requests: &[CheckedRequest], hparams: &SeracHparams, names: Names) -> Self {
        let examples: Vec<Example> = requests.iter().map(Example::of).collect();
        let mut known = BTreeSet::new();
        let mut prompts = Vec::new();
        for example in &examples {
            for text in std::iter::once(&example.prompt).chain(&example.rephrase) {
                if known.insert(text.clone()) {
                    let question = Question { prompt: text.clone(), answer: example.target.clone() };
                    prompts.push(PoolPrompt { question, fact: example.prompt.clone() });
                }
            }
        }
        Self { pool: Pool::new(prompts, hparams), examples, names }
    }

    pub(crate) fn len(&self) -> usize {
        self.examples.len()
    }

    /// SHA-256 over the records.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        let bytes = serde_json::to_vec(&self.examples).map_err(easyedit_core::Error::other)?;
        Ok(format!("{:x}", Sha256::digest(bytes)))
    }

    /// What a training batch asks of the examples at `places`.
    pub(crate) fn draw(&self, places: &[usize], hparams: &SeracHparams, rng: &mut ChaCha8Rng) -> Vec<Drawn> {
        // As in the original, a batch is hard as a whole or not at all.
        let hard = rng.random_bool(hparams.hard_neg_prob);
        places.iter().filter_map(|place| self.examples.get(*place)).map(|example| self.draw_one(example, hard, hparams, rng)).collect()
    }

    fn draw_one(&self, example: &Example, hard: bool, hparams: &SeracHparams, rng: &mut ChaCha8Rng) -> Drawn {
        let mut target = example.target.clone();
        if rng.random_bool(hparams.random_target)
            && let Some(other) = self.examples.choose(rng)
        {
            target.clone_from(&other.target);
        }
        if rng.random_bool(hparams.made_up_target) {
            target = self.names.draw(rng);
        }
        let (mut prompt, mut rephrase) = (example.prompt.clone(), example.rephrase.clone());
        let mut name = example.subject.clone();
        if rng.random_bool(hparams.random_subject) {
            let other = self.names.draw(rng);
            if let Some(renamed) = example.about(&other) {
                (prompt, rephrase) = renamed;
                name = Some(other);
            }
        }
        let asked = match rephrase {
            Some(rephrase) if rng.random_bool(hparams.outer_rephrase) => rephrase,
            _ => prompt.clone(),
        };
        let locality = (0..hparams.n_loc).filter_map(|_| {
            if rng.random_bool(hparams.swap_subject)
                && let Some(swapped) = self.swapped(&asked, name.as_deref(), rng)
            {
                return Some(Question { prompt: swapped, answer: target.clone() });
            }
            self.negative(example, hard, hparams.own_loc, rng)
        });
        let locality = locality.collect();
        let memory = Entry { case_id: example.case_id, prompt, target: target.clone() };
        Drawn { memory, outer: Question { prompt: asked, answer: target }, locality }
    }

    /// The same question about another subject, of the records or made up.
    fn swapped(&self, asked: &str, name: Option<&str>, rng: &mut ChaCha8Rng) -> Option<String> {
        let name = name?;
        let other = match rng.random_bool(0.5) {
            true => self.names.draw(rng),
            false => self.examples.choose(rng)?.subject.clone()?,
        };
        // A name inside of another one may mean the same.
        if other.contains(name) || name.contains(&other) {
            return None;
        }
        renamed(asked, name, &other)
    }

    /// A question out of scope: a hard one, or one of the record's own, or any.
    fn negative(&self, example: &Example, hard: bool, own: f64, rng: &mut ChaCha8Rng) -> Option<Question> {
        if hard && let Some(found) = self.pool.hard(&example.prompt, rng) {
            return Some(found);
        }
        match example.locality.choose(rng) {
            Some(question) if rng.random_bool(own) => Some(question.clone()),
            question => self.pool.any(&example.prompt, rng).or_else(|| question.cloned()),
        }
    }

    /// What a validation asks: every wording of every example, with its own locality prompts and one hard negative.
    pub(crate) fn all_of(&self, places: &[usize], rng: &mut ChaCha8Rng) -> Vec<Drawn> {
        let mut drawn = Vec::new();
        for example in places.iter().filter_map(|place| self.examples.get(*place)) {
            let memory = Entry { case_id: example.case_id, prompt: example.prompt.clone(), target: example.target.clone() };
            let mut locality = example.locality.clone();
            locality.extend(self.pool.hard(&example.prompt, rng));
            for prompt in std::iter::once(&example.prompt).chain(&example.rephrase) {
                let outer = Question { prompt: prompt.clone(), answer: example.target.clone() };
                drawn.push(Drawn { memory: memory.clone(), outer, locality: std::mem::take(&mut locality) });
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use easyedit_core::{EditRequest, EvaluationPrompt};
    use rand::SeedableRng;

    use super::*;

    fn examples(hparams: &SeracHparams) -> Examples {
        let request = |subject: &str, target: &str, rephrase: &str| EditRequest {
            rephrase_prompts: vec![rephrase.into()],
            locality: [("near".into(), vec![EvaluationPrompt::new("Bruno speaks", "Dutch")])].into(),
            ..EditRequest::new("The mother tongue of {} is", subject, target)
        };
        let requests = [request("Ada", "Welsh", "Ada speaks"), request("the Otter", "Latin", "The Otter grew up with")];
        Examples::new(&CheckedRequest::all(requests).unwrap(), hparams, Names::default())
    }

    #[test]
    fn a_made_up_subject_stands_in_every_wording() {
        let hparams = SeracHparams { random_subject: 1.0, outer_rephrase: 1.0, swap_subject: 1.0, ..SeracHparams::default() };
        let examples = examples(&hparams);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (place, ending) in [(0, " speaks"), (1, " grew up with")] {
            let drawn = examples.draw(&[place], &hparams, &mut rng).remove(0);
            let name = drawn.outer.prompt.strip_suffix(ending).unwrap();
            assert_eq!(drawn.memory.prompt, format!("The mother tongue of {name} is"));
            assert!(name != "Ada" && name != "The Otter");
            for negative in &drawn.locality {
                assert!(negative.prompt.ends_with(ending) && !negative.prompt.starts_with(name), "{negative:?}");
            }
        }
    }

    #[test]
    fn negatives_are_never_about_the_fact() {
        let hparams = SeracHparams { hard_neg_exclude: 0, hard_neg_prob: 1.0, n_loc: 3, ..SeracHparams::default() };
        let examples = examples(&hparams);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..50 {
            let drawn = examples.draw(&[0], &hparams, &mut rng).remove(0);
            assert_eq!(drawn.locality.len(), 3);
            assert!(drawn.locality.iter().all(|negative| !negative.prompt.contains("Ada")), "{drawn:?}");
        }
        let all = examples.all_of(&[0, 1], &mut rng);
        assert_eq!(all.iter().map(|one| one.outer.prompt.as_str()).collect::<Vec<_>>()[..2], ["The mother tongue of Ada is", "Ada speaks"]);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let hparams = SeracHparams { random_target: 0.5, random_subject: 0.5, ..SeracHparams::default() };
        let examples = examples(&hparams);
        let draw = |seed| examples.draw(&[0, 1], &hparams, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(3), draw(3));
    }
}
