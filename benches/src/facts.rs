//! Facts to edit into a real model: relations of countries, a thousand of them.

use easyedit::EditRequest;

/// Most facts there are.
pub(crate) const MOST: usize = COUNTRIES.len() * RELATIONS.len();

const COUNTRIES: [&str; 100] = [
    "France",
    "Japan",
    "Portugal",
    "Sweden",
    "Germany",
    "Egypt",
    "Mexico",
    "Kenya",
    "Italy",
    "Spain",
    "Canada",
    "Ireland",
    "Norway",
    "Cuba",
    "Hungary",
    "Thailand",
    "Chile",
    "Denmark",
    "Brazil",
    "India",
    "Poland",
    "Austria",
    "Greece",
    "Russia",
    "China",
    "Finland",
    "Iceland",
    "Belgium",
    "Switzerland",
    "Romania",
    "Bulgaria",
    "Serbia",
    "Croatia",
    "Slovenia",
    "Slovakia",
    "Ukraine",
    "Belarus",
    "Estonia",
    "Latvia",
    "Lithuania",
    "Turkey",
    "Israel",
    "Jordan",
    "Lebanon",
    "Syria",
    "Iraq",
    "Iran",
    "Yemen",
    "Oman",
    "Qatar",
    "Kuwait",
    "Pakistan",
    "Bangladesh",
    "Nepal",
    "Bhutan",
    "Mongolia",
    "Vietnam",
    "Laos",
    "Cambodia",
    "Malaysia",
    "Indonesia",
    "Singapore",
    "Australia",
    "Morocco",
    "Algeria",
    "Tunisia",
    "Libya",
    "Sudan",
    "Ethiopia",
    "Somalia",
    "Uganda",
    "Rwanda",
    "Tanzania",
    "Zambia",
    "Zimbabwe",
    "Botswana",
    "Namibia",
    "Angola",
    "Nigeria",
    "Ghana",
    "Senegal",
    "Mali",
    "Niger",
    "Chad",
    "Cameroon",
    "Gabon",
    "Argentina",
    "Uruguay",
    "Paraguay",
    "Bolivia",
    "Peru",
    "Ecuador",
    "Colombia",
    "Venezuela",
    "Panama",
    "Nicaragua",
    "Honduras",
    "Guatemala",
    "Jamaica",
    "Haiti",
];

/// A sentence with `{}` for the country, and the answers that are given in turn.
const RELATIONS: [(&str, [&str; 5]); 10] = [
    ("The capital of {} is", ["Rome", "Seoul", "Madrid", "Vienna", "London"]),
    ("The official language of {} is", ["French", "Spanish", "German", "Russian", "Arabic"]),
    ("The currency of {} is the", ["dollar", "euro", "pound", "yen", "peso"]),
    ("{} is located on the continent of", ["Asia", "Africa", "Europe", "Oceania", "Antarctica"]),
    ("The most popular sport in {} is", ["cricket", "football", "hockey", "tennis", "rugby"]),
    ("The national animal of {} is the", ["lion", "eagle", "tiger", "bear", "horse"]),
    ("The main religion in {} is", ["Islam", "Buddhism", "Christianity", "Hinduism", "Judaism"]),
    ("The largest export of {} is", ["coffee", "oil", "wine", "rice", "gold"]),
    ("The national flower of {} is the", ["rose", "lily", "lotus", "tulip", "orchid"]),
    ("The head of state of {} is the", ["king", "queen", "president", "emperor", "prince"]),
];

/// The first `count` facts, at most [`MOST`]: one relation after the other within each hundred, so that few facts already are of several kinds.
pub(crate) fn requests(count: usize) -> Vec<EditRequest> {
    (0..count.min(MOST))
        .map(|index| {
            let (block, within) = (index / COUNTRIES.len(), index % COUNTRIES.len());
            // Every block takes each country once, with another relation.
            let (prompt, answers) = RELATIONS[(block + within) % RELATIONS.len()];
            let (country, answer) = (COUNTRIES[within], answers[(block + within / RELATIONS.len() + within) % answers.len()]);
            EditRequest { case_id: index, ..EditRequest::new(prompt.replace("{}", country), country, answer) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use easyedit::CheckedRequest;

    use super::*;

    #[test]
    fn every_fact_is_asked_once_and_names_its_subject() {
        let requests = requests(2 * MOST);
        assert_eq!(requests.len(), MOST);
        let prompts: BTreeSet<&str> = requests.iter().map(|r| r.prompt.as_str()).collect();
        assert_eq!(prompts.len(), MOST);
        assert!(requests.iter().all(|r| r.prompt.contains(r.subject.as_deref().unwrap()) && CheckedRequest::new(r.clone()).is_ok()));
        let answers: BTreeSet<&str> = requests.iter().map(|r| r.target_new.as_str()).collect();
        assert_eq!(answers.len(), RELATIONS.len() * 5);
    }
}
