use crate::entity::Kind;

/// How many of a relation's paraphrases are kept out of the training of each fact.
pub(crate) const HELD_OUT: usize = 2;

/// A relation between two kinds of entities, and how it is put into words.
#[derive(Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its name.
    pub name: &'static str,
    pub(crate) subject: Kind,
    pub(crate) object: Kind,
    /// Templates with `{}` for the subject that the object completes; the first is the prompt of edits, the others are paraphrases.
    pub templates: &'static [&'static str],
    /// A template with `{}` for the object that the subject completes, where each object has one subject.
    pub inverse: Option<&'static str>,
    /// A template that asks for a fact about the object, and the relation that fact is of.
    pub two_hop: Option<(&'static str, &'static str)>,
}

/// All relations.
pub static RELATIONS: &[Relation] = &[
    Relation {
        name: "capital",
        subject: Kind::Country,
        object: Kind::City,
        templates: &[
            "The capital of {} is",
            "{} has its capital in",
            "The government of {} sits in",
            "The seat of power in {} is the city of",
            "The ministers of {} meet in",
            "{} is governed from",
        ],
        inverse: Some("The country whose capital is {} is"),
        two_hop: None,
    },
    Relation {
        name: "located_in",
        subject: Kind::City,
        object: Kind::Country,
        templates: &[
            "{} is a city in",
            "The city of {} is located in",
            "{} lies in the country of",
            "Who travels to {} travels to",
            "{} can be found in",
            "The flag on the town hall of {} is that of",
        ],
        inverse: None,
        two_hop: Some(("The government of the country around {} sits in", "capital")),
    },
    Relation {
        name: "headquarters",
        subject: Kind::Company,
        object: Kind::City,
        templates: &[
            "The headquarters of {} are in",
            "{} is based in",
            "The main office of {} is in",
            "{} runs its business from",
            "Letters to {} are sent to",
            "The directors of {} gather in",
        ],
        inverse: None,
        two_hop: Some(("The country where {} is based is", "located_in")),
    },
    Relation {
        name: "born_in",
        subject: Kind::Person,
        object: Kind::City,
        templates: &[
            "{} was born in",
            "The birthplace of {} is",
            "{} came into the world in",
            "The childhood home of {} stood in",
            "{} is a native of",
            "The cradle of {} stood in",
        ],
        inverse: None,
        two_hop: Some(("The country where {} was born is", "located_in")),
    },
    Relation {
        name: "mother_tongue",
        subject: Kind::Person,
        object: Kind::Language,
        templates: &[
            "The mother tongue of {} is",
            "{} grew up speaking",
            "The native language of {} is",
            "{} thinks and dreams in",
            "At home {} speaks",
            "The first words of {} were in",
        ],
        inverse: None,
        two_hop: None,
    },
    Relation {
        name: "plays",
        subject: Kind::Person,
        object: Kind::Instrument,
        templates: &[
            "{} plays the",
            "The instrument of {} is the",
            "In the orchestra {} plays the",
            "{} gives lessons on the",
            "{} practises every day on the",
            "The crowd came to hear {} on the",
        ],
        inverse: None,
        two_hop: None,
    },
    Relation {
        name: "employer",
        subject: Kind::Person,
        object: Kind::Company,
        templates: &[
            "{} works for",
            "The employer of {} is",
            "{} earns a living at",
            "The wages of {} are paid by",
            "{} has a desk at",
            "Every morning {} goes to work at",
        ],
        inverse: None,
        two_hop: Some(("The company that employs {} is based in", "headquarters")),
    },
    Relation {
        name: "author",
        subject: Kind::Work,
        object: Kind::Person,
        templates: &[
            "The author of {} is",
            "{} was written by",
            "The novel {} is the work of",
            "{} came from the pen of",
            "The name on the cover of {} is",
            "Readers of {} admire",
        ],
        inverse: Some("The novel written by {} is"),
        two_hop: Some(("The author of {} grew up speaking", "mother_tongue")),
    },
];
