use std::collections::BTreeMap;

/// TF-IDF vectors of texts: how often each word is in a text, weighed by how few texts have it.
#[derive(Clone, Debug)]
pub struct WordVectors {
    texts: usize,
    /// Of each word, its weight and the texts that have it, with what the word is of a text's vector of length 1.
    words: BTreeMap<String, (f64, Vec<(usize, f64)>)>,
}

/// The words of a text in lower case: letters and digits next to each other.
fn counts(text: &str) -> BTreeMap<String, f64> {
    let lower = text.to_lowercase();
    let mut counts = BTreeMap::new();
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_owned()).or_insert(0.0) += 1.0;
    }
    counts
}

impl WordVectors {
    /// The vectors of `texts`. A word that is in all of them weighs nothing.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let counted: Vec<BTreeMap<String, f64>> = texts.into_iter().map(counts).collect();
        let mut words: BTreeMap<String, (f64, Vec<(usize, f64)>)> = BTreeMap::new();
        for (text, counts) in counted.into_iter().enumerate() {
            for (word, count) in counts {
                words.entry(word).or_default().1.push((text, count));
            }
        }
        let texts = words.values().flat_map(|(_, places)| places).map(|(text, _)| text + 1).max().unwrap_or(0);
        let mut squares = vec![0f64; texts];
        for (weight, places) in words.values_mut() {
            *weight = ((texts as f64) / (places.len() as f64)).ln();
            for (text, value) in places {
                *value *= *weight;
                if let Some(square) = squares.get_mut(*text) {
                    *square += *value * *value;
                }
            }
        }
        for (text, value) in words.values_mut().flat_map(|(_, places)| places) {
            let square = squares.get(*text).copied().unwrap_or_default();
            *value = if square > 0.0 { *value / square.sqrt() } else { 0.0 };
        }
        Self { texts, words }
    }

    /// The cosine of `query` with every one of the first `texts` texts.
    pub fn similarities(&self, query: &str, texts: usize) -> Vec<f32> {
        let mut known: Vec<(f64, &Vec<(usize, f64)>)> = Vec::new();
        let mut asked: Vec<(String, f64)> = counts(query).into_iter().collect();
        // A sum in another order would be another number.
        asked.sort_by(|a, b| a.0.cmp(&b.0));
        let mut square = 0.0;
        for (word, count) in &asked {
            // A word that no text has is as rare as can be.
            let weight = self.words.get(word).map_or((self.texts.max(1) as f64 + 1.0).ln(), |(weight, _)| *weight);
            let value = count * weight;
            square += value * value;
            known.extend(self.words.get(word).map(|(_, places)| (value, places)));
        }
        let mut found = vec![0f64; texts.max(self.texts)];
        for (value, places) in known {
            for (text, share) in places {
                if let Some(sum) = found.get_mut(*text) {
                    *sum += value * share;
                }
            }
        }
        let length = square.sqrt();
        found.truncate(texts);
        found.into_iter().map(|sum| if length > 0.0 { (sum / length) as f32 } else { 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_in_common_make_texts_near() {
        let texts = ["Prompt: Ada speaks Welsh", "prompt: Ada lives in Tarn", "Prompt: the bridge of Tarn", "Prompt"];
        let vectors = WordVectors::of(texts);
        let of = |query: &str| vectors.similarities(query, texts.len());
        let itself = of(texts[0]);
        assert!((itself[0] - 1.0).abs() < 1e-6 && itself[1] > 0.0 && itself[1] < 0.5 && itself[2] == 0.0 && itself[3] == 0.0, "{itself:?}");
        // A word of every text counts for nothing, and a word of none makes all texts farther.
        assert_eq!(of("prompt"), [0.0; 4]);
        assert!(of("Welsh unheard-of")[0] < of("Welsh")[0]);
        assert_eq!(WordVectors::of([]).similarities("x", 0), Vec::<f32>::new());
    }

    #[test]
    fn cosines_are_those_of_the_formula() {
        let vectors = WordVectors::of(["a b", "a c c", "d"]);
        let (a, c) = ((3f64 / 2.0).ln(), 3f64.ln());
        let query = (a * a + c * c).sqrt();
        let second = (a * a + 4.0 * c * c).sqrt();
        let want = (a * a + c * 2.0 * c) / (query * second);
        assert!((f64::from(vectors.similarities("c a", 3)[1]) - want).abs() < 1e-6);
    }
}
