use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::names;

/// What an entity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Person,
    Country,
    City,
    Language,
    Instrument,
    Company,
    Work,
}

/// Number of people.
const PEOPLE: usize = 80;

/// Someone or something that facts are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entity {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// Another name it goes by.
    pub(crate) alias: Option<String>,
}

/// All entities of a world.
pub(crate) fn entities(rng: &mut ChaCha8Rng) -> Vec<Entity> {
    let mut people: Vec<String> =
        names::FIRST_NAMES.iter().flat_map(|first| names::LAST_NAMES.iter().map(move |last| format!("{first} {last}"))).collect();
    people.shuffle(rng);
    let nicknames = names::NICKNAMES.iter().map(|name| Some((*name).to_owned())).chain(std::iter::repeat(None));
    let people = people.into_iter().take(PEOPLE).zip(nicknames).map(|(name, alias)| Entity { kind: Kind::Person, name, alias });
    let plain = |kind, names: &'static [&'static str]| names.iter().map(move |name| Entity { kind, name: (*name).to_owned(), alias: None });
    let countries = names::COUNTRIES.iter().zip(names::COUNTRY_ALIASES).map(|(name, alias)| Entity {
        kind: Kind::Country,
        name: (*name).to_owned(),
        alias: Some((*alias).to_owned()),
    });
    people
        .chain(countries)
        .chain(plain(Kind::City, names::CITIES))
        .chain(plain(Kind::Language, names::LANGUAGES))
        .chain(plain(Kind::Instrument, names::INSTRUMENTS))
        .chain(plain(Kind::Company, names::COMPANIES))
        .chain(plain(Kind::Work, names::WORKS))
        .collect()
}
