//! The records of a file, one at a time.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Gives each record of a text to `take`, with its number or why it cannot be read. The text is a JSON array, an object with the array under `facts`,
/// one object, JSON lines, or, by the ending of `path`, a table with a line of keys (`.csv`, `.tsv`).
///
/// # Errors
///
/// Why the text holds no records at all.
pub(crate) fn each_record(path: &Path, text: &str, take: &mut dyn FnMut(usize, Result<Value, String>)) -> Result<(), String> {
    let ends_in = |ending: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(ending));
    match (ends_in("csv"), ends_in("tsv")) {
        (true, _) => return table(text, b',', take),
        (_, true) => return table(text, b'\t', take),
        _ => {}
    }
    match text.trim_start().chars().next() {
        Some('[') => array(text, take),
        Some('{') => objects(text, take),
        Some(_) => Err("is neither a JSON array of records nor JSON lines".into()),
        None => Err("is empty".into()),
    }
}

fn array(text: &str, take: &mut dyn FnMut(usize, Result<Value, String>)) -> Result<(), String> {
    let mut count = 0;
    let mut counted = |value| {
        take(count, Ok(value));
        count += 1;
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Elements(&mut counted).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match read {
        Err(error) if count == 0 => Err(format!("is not JSON: {error}")),
        Err(error) => {
            take(count, Err(format!("is not JSON: {error}; what follows in the file is lost")));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// One object that the text is, with its records under `facts` if it has that key; or one on each line.
fn objects(text: &str, take: &mut dyn FnMut(usize, Result<Value, String>)) -> Result<(), String> {
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(mut map) => match map.remove("facts") {
            Some(Value::Array(records)) => records.into_iter().enumerate().for_each(|(index, record)| take(index, Ok(record))),
            Some(_) => return Err("facts: is not an array".into()),
            None => take(0, Ok(Value::Object(map))),
        },
        Err(whole) => {
            let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).peekable();
            // If the first line is no record of its own, the file is something else.
            if lines.peek().is_some_and(|(_, line)| serde_json::from_str::<Value>(line).is_err()) {
                return Err(format!("is not JSON: {whole}"));
            }
            for (index, (number, line)) in lines.enumerate() {
                take(index, serde_json::from_str(line).map_err(|error| format!("line {}: is not JSON: {error}", number + 1)));
            }
        }
    }
    Ok(())
}

fn table(text: &str, delimiter: u8, take: &mut dyn FnMut(usize, Result<Value, String>)) -> Result<(), String> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::Headers).from_reader(text.as_bytes());
    let keys = reader.headers().map_err(|error| format!("is not a table: {error}"))?.clone();
    for (index, row) in reader.records().enumerate() {
        let record = |row: csv::StringRecord| {
            // An empty cell is nothing.
            let cells = keys.iter().zip(row.iter()).filter(|(_, cell)| !cell.trim().is_empty());
            Value::Object(cells.map(|(key, cell)| (key.to_owned(), Value::from(cell))).collect())
        };
        take(index, row.map(record).map_err(|error| error.to_string()));
    }
    Ok(())
}

/// The elements of an array, each handed over when it is read.
struct Elements<'a>(&'a mut dyn FnMut(Value));

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            (self.0)(element);
        }
        Ok(())
    }
}
